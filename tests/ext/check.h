/* assert() that is never compiled out and prints both sides. */
#ifndef RCMGR_CHECK_H
#define RCMGR_CHECK_H

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                          \
    do {                                                                          \
        if (!(condition)) {                                                       \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);       \
            exit(1);                                                              \
        }                                                                         \
    } while (0)

#define CHECK_EQ(left, right)                                                     \
    do {                                                                          \
        int64_t left_value = (left), right_value = (right);                       \
        if (left_value != right_value) {                                          \
            fprintf(stderr, "%s:%d: %s is %" PRId64 ", not %" PRId64 "\n",        \
                    __FILE__, __LINE__, #left, left_value, right_value);          \
            exit(1);                                                              \
        }                                                                         \
    } while (0)

#endif
