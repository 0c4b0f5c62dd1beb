/* Debug build: which blocks are alive, by the function that allocated them.
 *
 * malloc, calloc, realloc and free of every module that includes native.h are counted, so that a
 * test can tell what it left behind. The release build has none of this. A block carries its place
 * in front of it: who frees it need not be the module that allocated it.
 */
#pragma once

typedef struct live_site {
    const char *file, *function;
    int64_t blocks;             /* atomic: threads without the GIL allocate too */
    int64_t listed;
    struct live_site *next;
} live_site;

#ifndef DENGINE_DEBUG
static inline live_site *live_sites(void) { return 0; }
#else
#include <stdlib.h>
#include <string.h>

/* The list of all modules. Python loads each with its own symbols; of one that is GNU's "unique
   object" the loader keeps a single copy for the process. */
__asm__(".pushsection .bss\n"
        ".balign 8\n"
        ".type dengine_live_list, @gnu_unique_object\n"
        ".size dengine_live_list, 8\n"
        "dengine_live_list: .zero 8\n"
        ".popsection\n");
extern live_site *dengine_live_list;

static inline live_site *live_sites(void) {
    return __atomic_load_n(&dengine_live_list, __ATOMIC_ACQUIRE);
}

typedef struct live_block {
    live_site *site;
    uint64_t check;             /* LIVE_CHECK ^ its address: not a block of ours without it */
} live_block;

#define LIVE_CHECK 0x6465206576696C20u

static inline void live_list(live_site *s) {
    if (__atomic_exchange_n(&s->listed, 1, __ATOMIC_ACQ_REL))
        return;
    s->next = live_sites();
    while (!__atomic_compare_exchange_n(&dengine_live_list, &s->next, s, 0, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE)) {}
}
static inline void *live_born(live_site *s, live_block *b) {
    if (b == NULL)
        return NULL;
    live_list(s);
    __atomic_add_fetch(&s->blocks, 1, __ATOMIC_RELAXED);
    b->site = s;
    b->check = LIVE_CHECK ^ (uintptr_t)b;
    return b + 1;
}
static inline live_block *live_block_of(void *p) {
    live_block *b = (live_block *)p - 1;
    return p != NULL && b->check == (LIVE_CHECK ^ (uintptr_t)b) ? b : NULL;
}
static inline void live_free(void *p) {
    live_block *b = live_block_of(p);
    if (b != NULL) {
        __atomic_sub_fetch(&b->site->blocks, 1, __ATOMIC_RELAXED);
        b->check = 0;
    }
    free(b != NULL ? (void *)b : p);
}
static inline void *live_malloc(live_site *s, size_t n) {
    return live_born(s, (live_block *)malloc(n + sizeof(live_block)));
}
static inline void *live_calloc(live_site *s, size_t count, size_t n) {
    return live_born(s, (live_block *)calloc(1, count * n + sizeof(live_block)));
}
static inline void *live_realloc(live_site *s, void *p, size_t n) {
    live_block *b = live_block_of(p), *moved;
    live_site *of = b != NULL ? b->site : s;
    if (p != NULL && b == NULL)
        return realloc(p, n);   /* of a module that does not count */
    moved = (live_block *)realloc(b, n + sizeof(live_block));
    if (moved == NULL)
        return NULL;
    if (b != NULL)
        __atomic_sub_fetch(&of->blocks, 1, __ATOMIC_RELAXED);
    return live_born(of, moved);
}

#define LIVE_SITE ({ static live_site site = {__FILE__, __func__, 0, 0, NULL}; &site; })
#define malloc(n) live_malloc(LIVE_SITE, n)
#define calloc(count, n) live_calloc(LIVE_SITE, count, n)
#define realloc(p, n) live_realloc(LIVE_SITE, p, n)
#define free(p) live_free(p)
#endif
