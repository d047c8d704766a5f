/*
 * The configuration: one YAML file, checked against a schema of const tables,
 * with every problem reported at once and in its place:
 *
 *     FILE:LINE:COLUMN: sources.shop.port: must be an integer from 1 to 65535, not "x"
 *
 * A scalar may hold ${NAME} or ${NAME:-text} from the environment ($${ is a
 * plain ${); a secret may be file:PATH. Both come through callbacks. A plain
 * `null`, `~` or nothing at all is as if the key were not there. Anchors,
 * aliases and tags are refused. Secrets, passwords in URLs, and texts that came
 * from the environment are never shown.
 */
#ifndef OX_BASE_CONF_H
#define OX_BASE_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/slice.h"

#define CONF_FILE_MAX ((size_t)1 << 20)
#define CONF_DEPTH_MAX 32
#define CONF_NODES_MAX 50000
#define CONF_KEYS_MAX 4096 /* of one mapping */
#define CONF_PROBLEMS_MAX 50

struct json_out;

enum conf_kind {
    CONF_STRING = 0,
    CONF_INT,
    CONF_BOOL,     /* true, false */
    CONF_DURATION, /* "250us", "10ms", "5s", "2m", "2h", "30d", "0": in µs */
    CONF_SIZE,     /* "64KB", "256MiB", "512": in bytes */
    CONF_URL,      /* http or https, or one of the schemes in `values` */
    CONF_PATH,
    CONF_SECRET, /* the text, or file:PATH: what is in there without the last line end */
    CONF_ENUM,   /* one of `values` */
    CONF_LIST,   /* of `of` */
    CONF_MAP,    /* of `of`, with keys of `chars` */
    CONF_OBJECT, /* of `fields` */
    CONF_DRIVER, /* `fields`, `type` and the fields of the schema that `type` names */
    CONF_ANY,    /* not checked */
};

struct conf_field;
struct conf_type;

/* One more schema that the key `type` can name. It must be a CONF_OBJECT. */
struct conf_driver {
    const char             *name; /* NULL ends a table */
    const struct conf_type *type;
};

struct conf_type {
    enum conf_kind kind;
    /*
     * Both 0: any. INT, DURATION (µs) and SIZE: the value. STRING, PATH and
     * SECRET: the length. LIST and MAP: how many.
     */
    int64_t                   min, max;
    const char *const        *values; /* ends with NULL */
    const struct conf_type   *of;
    const char               *chars;   /* STRING, and keys of MAP: as in "a-z0-9_-"; NULL: any */
    const struct conf_field  *fields;  /* ends with a name of NULL */
    const struct conf_driver *drivers; /* CONF_DRIVER: a table, or NULL … */
    const char               *family; /* … and conf_opts.driver is asked: "source", "sink", … */
};

/* {.name = "port", .type = {.kind = CONF_INT, .min = 1, .max = 65535}, .preset = "2113"} */
struct conf_field {
    const char      *name;
    struct conf_type type;
    bool             required;
    const char      *preset; /* as in the file ("{}", "[]" too); NULL: may be absent */
    const char      *doc;    /* half a sentence */
};

struct conf_opts {
    const char *file; /* its name, for messages */
    /* NULL where the variable is not set. */
    const char *(*getenv)(void *arg, const char *name);
    int (*read_file)(void *arg, const char *path, struct buf *out, struct err *err);
    /* Fills in driver i of a family; false beyond the last. May be NULL where no schema asks. */
    bool (*driver)(void *arg, const char *family, size_t i, struct conf_driver *out);
    void *arg;
};

/* A node of a checked tree: an object, a list, a scalar. */
struct conf;

/*
 * E_SYNTAX (not YAML) and E_SCHEMA are ERR_FATAL; the error's text is the
 * first problem, `problems` has all of them, a line each, at most
 * CONF_PROBLEMS_MAX. The schema and what it points to outlive the tree.
 */
int  conf_load(struct slice text, const struct conf_type *schema, const struct conf_opts *opts,
               struct conf **out, struct buf *problems, struct err *err);
void conf_free(struct conf *root); /* NULL is fine */

/*
 * Values of an object by key, as the schema has them: another key or kind is a
 * bug. So is a number that may be absent and is: ask conf_has first.
 */
bool        conf_has(const struct conf *c, const char *key);
const char *conf_str(const struct conf *c, const char *key); /* NULL where absent */
int64_t     conf_int(const struct conf *c, const char *key);
bool        conf_bool(const struct conf *c, const char *key);
uint64_t    conf_duration_us(const struct conf *c, const char *key);
uint64_t    conf_size(const struct conf *c, const char *key);
size_t      conf_enum(const struct conf *c, const char *key); /* which of `values` */

/* NULL where absent, which the functions below take as empty. */
const struct conf *conf_child(const struct conf *c, const char *key);

/* for (e = conf_first(c); e != NULL; e = conf_next(e)): in the order of the file. */
const struct conf *conf_first(const struct conf *c);
const struct conf *conf_next(const struct conf *c);
size_t             conf_count(const struct conf *c);
const char        *conf_key(const struct conf *c);  /* NULL in a list */
const char        *conf_text(const struct conf *c); /* of a scalar */
int64_t            conf_number(const struct conf *c);

/* For checks that no schema can make: "FILE:LINE:COLUMN: path: …", E_SCHEMA. Returns E_SCHEMA. */
int conf_fail(const struct conf *c, struct err *err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/*
 * What a node of CONF_ANY says, as JSON: a plain scalar that is a literal or a number of JSON's
 * stands as it is written, an empty one and ~ are null, all else are strings. What came from the
 * environment is in it: not for showing. `place`
 * (may be NULL) is told where in `out` each key and value begins, and where it stood.
 */
typedef void conf_place_fn(void *arg, size_t offset, uint32_t line, uint32_t column);
void         conf_put_any(const struct conf *c, struct buf *out, conf_place_fn *place, void *arg);
const char  *conf_file(const struct conf *c);

/* The tree with its presets, and "***" for what must not be shown. */
void conf_put_json(const struct conf *c, struct json_out *o);

#endif
