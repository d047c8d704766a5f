/* Inside the configuration only: the tree, and the list of its problems. */
#ifndef OX_BASE_CONF_INT_H
#define OX_BASE_CONF_INT_H

#include <stdarg.h>

#include "base/conf.h"

enum conf_shape {
    CONF_SCALAR,
    CONF_SEQUENCE,
    CONF_MAPPING,
};

struct conf_block;

struct conf {
    const struct conf_type *type;   /* NULL: not checked */
    const struct conf_type *driver; /* CONF_DRIVER: the schema that `type` named */
    struct conf_tree       *tree;
    struct conf            *parent, *first, *last, *next;
    const char             *key, *text;
    int64_t                 number;
    uint32_t                line, column, key_line, key_column, count;
    enum conf_shape         shape;
    bool                    plain;  /* a scalar without quotes */
    bool                    hidden; /* what it holds must not be shown */
};

struct conf_tree {
    struct conf       *root;
    struct conf_block *blocks;
    char              *file;
    size_t             nodes;
};

struct conf_problem {
    uint32_t line, column;
    char     text[ERR_TEXT_MAX];
};

/* A load under way. */
struct conf_job {
    const struct conf_opts *opts;
    struct conf_tree       *tree;
    struct conf_problem    *problems; /* CONF_PROBLEMS_MAX of them */
    size_t                  count;    /* may be more than are kept */
    bool                    syntax;   /* the first one is that it is no YAML */
};

/* Zeroed memory that lives as long as the tree; NULL when there is none. */
void *basei_conf_alloc(struct conf_tree *tree, size_t size);
char *basei_conf_copy(struct conf_tree *tree, const void *data, size_t len);

/* A node at the end of its parent's children. */
struct conf *basei_conf_node(struct conf_tree *tree, struct conf *parent, enum conf_shape shape);

/* "a.b.c: " of a node, or nothing at the root. */
void basei_conf_path(const struct conf *c, struct buf *out);

void basei_conf_problem(struct conf_job *job, uint32_t line, uint32_t column, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* With the path of the node before it. */
void basei_conf_problem_at(struct conf_job *job, const struct conf *c, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Builds the tree; what is wrong becomes a problem. */
int basei_conf_parse(struct conf_job *job, struct slice text, struct err *err);

/* Checks a node and all below it, and fills in presets. */
int basei_conf_check(struct conf_job *job, struct conf *c, const struct conf_type *type,
                     struct err *err);

/* A scalar's text with ${NAME} replaced, then its value by its type. */
int basei_conf_expand(struct conf_job *job, struct conf *c, struct err *err);
int basei_conf_value(struct conf_job *job, struct conf *c, const struct conf_type *type,
                     struct err *err);

/* In `chars` as conf_type has them. */
bool basei_conf_chars(const char *text, const char *chars);

#endif
