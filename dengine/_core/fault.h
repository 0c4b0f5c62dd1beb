/* Planted bugs: real in the build "faults" of the tests alone, elsewhere the constant 0.
 *
 * MUTANT(n): does this process run with planted bug n? DENGINE_MUTANT says so, read once when a
 * module is loaded. What each n means is in tests/mutants/table.py.
 */
#pragma once

#ifdef DENGINE_FAULTS
#include <stdlib.h>

static int dengine_mutant;

__attribute__((constructor)) static void dengine_faults(void) {
    const char *n = getenv("DENGINE_MUTANT");
    dengine_mutant = n ? atoi(n) : 0;
}
#define MUTANT(n) (dengine_mutant == (n))
#else
#define MUTANT(n) 0
#endif
