/* Inside src/transform only. */
#ifndef OX_TRANSFORM_INT_H
#define OX_TRANSFORM_INT_H

#include <stdatomic.h>

#include "base/json.h"
#include "base/template.h"
#include "transform/transform.h"

/* enum transform_may of what stands before a delivery. */
#define TRANSFORMI_DELIVER (TRANSFORM_CHANGE | TRANSFORM_DROP | TRANSFORM_ROUTE)

/* the text of a transform: JSON, with where each piece of it stood in the YAML */

struct transformi_place {
    size_t   offset; /* in `text` */
    uint32_t line, column;
};

struct transformi_spec {
    const char *name;
    struct buf  text;
    struct buf  places; /* struct transformi_place, ascending; empty: of JSON, lines are counted */
};

/* "NAME:LINE:COLUMN: …" of a slice of the text; ERR_FATAL. Returns the code. */
int transformi_fail(const struct transformi_spec *spec, const void *at, int code, struct err *err,
                    const char *fmt, ...) __attribute__((format(printf, 5, 6)));

/* The text that `why` has, at this place. */
int transformi_fail_as(const struct transformi_spec *spec, const void *at, const struct err *why,
                       struct err *err);

/* Decodes a raw string, which must not be empty or longer than `max`; the caller frees it. */
int transformi_string(const struct transformi_spec *spec, struct slice raw, const char *what,
                      size_t max, char **out, size_t *len, struct err *err);

/* E_SCHEMA unless the key is one of `names`, which ends with NULL; *out is which. */
int transformi_key(const struct transformi_spec *spec, struct slice raw_key,
                   const char *const *names, size_t *out, struct err *err);

/* A text that is copied, NUL-terminated. NULL: no memory. */
char *transformi_copy(struct slice text);

/* paths: "data.a.b", a dot in a name as "\." */

#define TRANSFORMI_STEPS_MAX 32
#define TRANSFORMI_PATH_MAX 1024

enum transformi_root {
    TRANSFORMI_DATA,
    TRANSFORMI_META,
    TRANSFORMI_TYPE,
    TRANSFORMI_STREAM,
    TRANSFORMI_CATEGORY,
};

struct transformi_path {
    enum transformi_root root;
    size_t               count;
    struct slice         steps[TRANSFORMI_STEPS_MAX]; /* into `text` */
    char                *text;
};

/* E_SCHEMA. `any`: type, stream and category too. Free by transformi_path_fini, in any case. */
int  transformi_path_init(struct transformi_path *p, struct slice text, bool any, struct err *err);
void transformi_path_fini(struct transformi_path *p);

/* The raw value at the steps; false where there is none. */
bool transformi_get(struct slice doc, const struct transformi_path *p, struct slice *out);

/*
 * The document with the value at the steps set, or without it; every other byte is as it was.
 * Missing objects are made; E_SCHEMA, ERR_DATA where something else is in the way. `out` is
 * written from its start. Unset of what is not there leaves all as it is.
 */
int transformi_set(struct slice doc, const struct transformi_path *p, struct slice raw,
                   struct buf *out, struct err *err);
int transformi_unset(struct slice doc, const struct transformi_path *p, struct buf *out,
                     struct err *err);

/* conditions */

struct transformi_when;

int  transformi_when_new(const struct transformi_spec *spec, struct slice raw,
                         struct transformi_when **out, struct err *err);
void transformi_when_free(struct transformi_when *w); /* NULL is fine */
/* `scratch` is used up. NULL holds always. E_NOMEM only. */
int transformi_when_holds(const struct transformi_when *w, const struct transform_event *e,
                          struct buf *scratch, bool *out, struct err *err);

/* The category of a stream: its name up to the first '-'. */
struct slice transformi_category(struct slice stream);

/* rules */

struct transformi_rules;

int      transformi_rules_new(const struct transformi_spec *spec, struct slice raw,
                              struct transformi_rules **out, struct err *err);
void     transformi_rules_free(struct transformi_rules *r); /* NULL is fine */
unsigned transformi_rules_may(const struct transformi_rules *r);

struct transformi_rules_run;

int  transformi_rules_run_new(const struct transformi_rules *r, struct transformi_rules_run **out,
                              struct err *err);
void transformi_rules_run_free(struct transformi_rules_run *run);
/* Applies them: emits 0 or more outputs. */
int transformi_rules_event(struct transformi_rules_run *run, const struct transform_event *in,
                           uint64_t ordinal, transform_emit_fn *emit, void *arg, struct err *err);

/* scripts */

struct transformi_limits {
    uint64_t instructions; /* of one call */
    uint64_t memory;       /* bytes of one run */
    uint32_t outputs;      /* of one call */
};

struct transformi_script;

/* Compiles: `text` is the script, `file` its name. Finds out which functions there are. */
int
transformi_script_new(const char *file, struct slice text, const struct transformi_limits *limits,
                      struct transformi_script **out, struct err *err);
void transformi_script_free(struct transformi_script *s); /* NULL is fine */
/* It has begin or finish. */
bool transformi_script_stateful(const struct transformi_script *s);

struct transformi_script_run;

/*
 * A virtual machine of its own. `may`: enum transform_may; without TRANSFORM_STATE the script gets
 * no state. `stop` ends what runs, and outlives the run.
 */
int
transformi_script_run_new(const struct transformi_script *s, unsigned may, const atomic_bool *stop,
                          struct transformi_script_run **out, struct err *err);
void transformi_script_run_free(struct transformi_script_run *run);
/* Whether another stream may begin here: it finds nothing of the one before. */
bool transformi_script_reusable(const struct transformi_script_run *run);
int
transformi_script_begin(struct transformi_script_run *run, struct slice stream, struct err *err);
int transformi_script_event(struct transformi_script_run *run, const struct transform_event *in,
                            uint64_t ordinal, transform_emit_fn *emit, void *arg, struct err *err);
int transformi_script_end(struct transformi_script_run *run, transform_emit_fn *emit, void *arg,
                          struct err *err);

/* a transform */

struct transform {
    struct transformi_rules  *rules; /* or … */
    struct transformi_script *script;
    struct transformi_limits  limits;
    unsigned                  may;
    bool                      may_said;
    struct ox_id              fingerprint;
    struct buf                json;
    char                     *name;
};

/*
 * Checks what is about to be emitted: names and sizes. E_SCHEMA or E_LIMIT, ERR_DATA. `type`: what
 * it may be called though it begins with '$'.
 */
int transformi_out_check(const struct transform_out *out, struct slice type, struct err *err);

#endif
