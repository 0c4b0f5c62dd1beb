/* Planted bugs and failpoints: real in the build "faults" of the tests alone, elsewhere nothing.
 *
 * MUTANT(n): does this process run with planted bug n? DENGINE_MUTANT says so, read once when a
 * module is loaded. What each n means is in tests/mutants/table.py.
 *
 * FAILPOINT(name): 0, or the errno to go on with. DENGINE_FAILPOINT=name:nth:action says what is to
 * happen when this point is passed for the nth time: kill (SIGKILL), eio, or pause (one second).
 *
 * FORMAT(n): the number of a format. DENGINE_NEXT_FORMAT=1 makes each one larger, so that the way
 * from one version to the next can be walked before there is a next one.
 */
#pragma once

#ifdef DENGINE_FAULTS
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int dengine_mutant;
static unsigned dengine_next_format;        /* 1: this process plays the next version of all files */
static char dengine_failpoint[64];          /* the one that acts; "": none */
static const char *dengine_action = "";
static atomic_long dengine_passes;          /* left until it acts */

__attribute__((constructor)) static void dengine_faults(void) {
    const char *n = getenv("DENGINE_MUTANT"), *point = getenv("DENGINE_FAILPOINT");
    size_t name = point ? strcspn(point, ":") : 0;
    char *action;
    dengine_mutant = n ? atoi(n) : 0;
    dengine_next_format = getenv("DENGINE_NEXT_FORMAT") != NULL;
    if (name == 0 || point[name] == 0 || name >= sizeof(dengine_failpoint))
        return;
    memcpy(dengine_failpoint, point, name);
    dengine_passes = strtol(point + name + 1, &action, 10);
    dengine_action = *action ? action + 1 : action;
}

__attribute__((unused)) static int dengine_pass(const char *name) {
    if (strcmp(name, dengine_failpoint) || atomic_fetch_sub(&dengine_passes, 1) != 1)
        return 0;
    if (strcmp(dengine_action, "eio") == 0)
        return EIO;
    if (strcmp(dengine_action, "pause") == 0)
        return (int)sleep(1);
    return raise(SIGKILL);
}
#define MUTANT(n) (dengine_mutant == (n))
#define FAILPOINT(name) dengine_pass(name)
#define FORMAT(n) ((unsigned)(n) + dengine_next_format)
#else
#define MUTANT(n) 0
#define FORMAT(n) (n)
#define FAILPOINT(name) ((void)(name), 0)
#endif
