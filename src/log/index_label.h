/*
 * The events of one index transaction grouped by their labels: a label is a
 * category or a type, and each has its positions in growing order. Labels come
 * in the order in which they were first seen, so the same batch always gives
 * the same groups.
 */
#ifndef OX_LOG_INDEX_LABEL_H
#define OX_LOG_INDEX_LABEL_H

#include <stdint.h>

#include "base/err.h"
#include "base/slice.h"
#include "log/index.h"

enum index_label_kind { INDEX_CATEGORY = 'c', INDEX_TYPE = 't' };

struct index_label {
    struct slice name; /* the batch's own bytes */
    uint64_t     hash;
    uint32_t     kind;  /* enum index_label_kind */
    uint32_t     start; /* of its positions */
    uint32_t     count;
};

struct index_labels {
    struct index_label *labels;
    uint32_t            count, cap;
    uint64_t           *positions;
    uint32_t           *of_event; /* category and type of each event: number + 1, or 0 */
    uint32_t           *table;    /* number + 1, by hash */
    uint32_t            table_cap;
};

/* `out` must be zeroed; free it by logi_labels_fini also after a failure. */
int  logi_labels_init(struct index_labels *out, const struct index_event *events, uint32_t count,
                      struct err *err);
void logi_labels_fini(struct index_labels *labels);

#endif
