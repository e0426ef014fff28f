/* Let a source take the branches for Microsoft's compiler. Only for scripts/cross_compile, which
 * includes it before the source. The system's headers need the true compiler, so they come first. */
#ifndef RCMGR_CROSS_AS_MSVC_H
#define RCMGR_CROSS_AS_MSVC_H

#include <windows.h>

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <psapi.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#define _M_X64 100
#endif
#define __INTRIN_H /* clang's own <intrin.h> needs clang */

#undef __GNUC__
#undef __clang__
#define _MSC_VER 1944

#endif
