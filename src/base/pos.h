/* Where in the log: a logical byte offset, ever growing, the same for ever. */
#ifndef OX_BASE_POS_H
#define OX_BASE_POS_H

#include <stdint.h>

struct log_pos {
    uint64_t v;
};

#define LOG_POS(x) ((struct log_pos){(x)})
#define LOG_POS_MAX LOG_POS(UINT64_MAX)

#endif
