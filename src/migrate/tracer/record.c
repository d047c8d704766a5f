/* The durable record of a migration as JSON, and the names of phases and commands. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "migrate/tracer/tracer_int.h"

static const char *const phases[] = {
    "DRAFT",   "PREFLIGHT", "SYNCING",       "BACKFILLING", "CATCHING_UP", "VERIFYING", "READY",
    "FENCING", "NEW_SOAK",  "FALLBACK_KEPT", "RETIRED",     "PAUSED",      "CANCELLED", "HALTED",
};
static const char *const sides[] = {"old", "new", "fenced"};
static const char *const commands[] = {
    "start",   "pause",    "resume",   "verify", "repair",   "switch",
    "reverse", "complete", "complete", "cancel", "backfill", "backfill",
};
static const char *const mores[] = {
    [TRACER_COMPLETE_FALLBACK] = "fallback",
    [TRACER_COMPLETE_RETIRE] = "retire",
    [TRACER_BACKFILL_ON] = "on",
    [TRACER_BACKFILL_OFF] = "off",
};

const char *
tracer_phase_name(enum tracer_phase phase)
{
    must((unsigned)phase <= TRACER_HALTED);
    return phases[phase];
}

const char *
tracer_command_name(enum tracer_command command)
{
    must((unsigned)command <= TRACER_BACKFILL_OFF);
    return commands[command];
}

const char *
tracer_side_name(enum tracer_side side)
{
    return side == TRACER_OLD ? "old" : side == TRACER_NEW ? "new" : "hold";
}

bool
tracer_command_parse(const char *word, const char *more, enum tracer_command *out)
{
    for (unsigned c = 0; c <= TRACER_BACKFILL_OFF; c++) {
        if (strcmp(word, commands[c]) != 0 || (mores[c] != NULL) != (more != NULL))
            continue;
        if (more != NULL && strcmp(more, mores[c]) != 0)
            continue;
        *out = (enum tracer_command)c;
        return true;
    }
    return false;
}

void
traceri_record_stream(const char *name, char out[LOG_NAME_MAX + 1])
{
    (void)snprintf(out, LOG_NAME_MAX + 1, "$migration-%s", name);
}

static void
put_u64(struct json_out *o, const char *key, uint64_t v)
{
    json_out_key(o, key);
    json_out_u64(o, v);
}

void
traceri_record_put(const struct traceri_record *r, struct buf *out)
{
    struct json_out o;

    json_out_init(&o, out);
    json_out_object(&o);
    json_out_key(&o, "phase");
    json_out_str(&o, phases[r->phase]);
    json_out_key(&o, "from");
    json_out_str(&o, phases[r->from]);
    put_u64(&o, "epoch", r->epoch);
    json_out_key(&o, "authority");
    json_out_str(&o, sides[r->authority]);
    json_out_key(&o, "fenced");
    json_out_str(&o, sides[r->fenced]);
    put_u64(&o, "since", r->since);
    put_u64(&o, "seed", r->seed);
    json_out_key(&o, "backfill");
    json_out_object(&o);
    json_out_key(&o, "on");
    json_out_bool(&o, r->backfill_on);
    json_out_key(&o, "cursor");
    json_out_str(&o, r->cursor);
    json_out_key(&o, "done");
    json_out_bool(&o, r->backfill_done);
    put_u64(&o, "rows", r->backfill_rows);
    json_out_object_end(&o);
    json_out_key(&o, "verify");
    json_out_object(&o);
    json_out_key(&o, "clean");
    json_out_bool(&o, r->clean);
    put_u64(&o, "upto", r->upto);
    json_out_key(&o, "at_us");
    json_out_i64(&o, r->clean_us);
    put_u64(&o, "rows", r->verified_rows);
    put_u64(&o, "repaired", r->repaired);
    json_out_object_end(&o);
    json_out_key(&o, "dismantled");
    json_out_bool(&o, r->dismantled);
    json_out_key(&o, "canary");
    json_out_bool(&o, r->canary);
    put_u64(&o, "switches", r->switches);
    json_out_key(&o, "held_us");
    json_out_array(&o);
    for (uint32_t i = 0; i < r->held_count; i++)
        json_out_u64(&o, r->held[i]);
    json_out_array_end(&o);
    json_out_key(&o, "error");
    json_out_str(&o, r->error);
    json_out_object_end(&o);
}

/* Which of the words a raw string is; an unknown one is an error. */
static int
word_of(struct slice raw, const char *const *words, size_t count, unsigned *out, struct err *err)
{
    for (size_t i = 0; i < count; i++) {
        if (json_type(raw) == JSON_STRING &&
            json_key_is(slice_of((const char *)raw.data + 1, raw.len - 2), slice_str(words[i]))) {
            *out = (unsigned)i;
            return 0;
        }
    }
    RETURN_ERR(err, E_FORMAT, ERR_FATAL, "a word in the record is not known to this version");
}

static int
text_of(struct slice raw, char *out, size_t room, struct err *err)
{
    struct buf text = {0};
    int        rc;

    TRY(json_string_decode(raw, &text, err));
    if (text.failed || text.len >= room)
        FAIL(err, E_FORMAT, ERR_FATAL, "a text in the record is too long");
    memcpy(out, text.len == 0 ? (const void *)"" : text.data, text.len);
    out[text.len] = '\0';
out:
    buf_fini(&text);
    return rc;
}

static int
read_backfill(struct slice json, struct traceri_record *r, struct err *err)
{
    struct json_field f[] = {{.name = "on", .required = true},
                             {.name = "cursor", .required = true},
                             {.name = "done", .required = true},
                             {.name = "rows", .required = true}};
    int               rc;

    TRY(json_pick(json, f, 4, JSON_PICK_ANY, err));
    TRY(text_of(f[1].value, r->cursor, sizeof r->cursor, err));
    if (!json_bool(f[0].value, &r->backfill_on) || !json_bool(f[2].value, &r->backfill_done) ||
        !json_uint64(f[3].value, &r->backfill_rows))
        FAIL(err, E_FORMAT, ERR_FATAL, "\"backfill\" has a value of another type");
out:
    return rc;
}

static int
read_verify(struct slice json, struct traceri_record *r, struct err *err)
{
    struct json_field f[] = {{.name = "clean", .required = true},
                             {.name = "upto", .required = true},
                             {.name = "at_us", .required = true},
                             {.name = "rows", .required = true},
                             {.name = "repaired", .required = true}};
    int               rc;

    TRY(json_pick(json, f, 5, JSON_PICK_ANY, err));
    if (!json_bool(f[0].value, &r->clean) || !json_uint64(f[1].value, &r->upto) ||
        !json_int64(f[2].value, &r->clean_us) || !json_uint64(f[3].value, &r->verified_rows) ||
        !json_uint64(f[4].value, &r->repaired))
        FAIL(err, E_FORMAT, ERR_FATAL, "\"verify\" has a value of another type");
out:
    return rc;
}

static int
read_held(struct slice json, struct traceri_record *r, struct err *err)
{
    struct json_iter it;
    struct slice     value;
    int              rc;

    TRY(json_array_iter(&it, json, err));
    while ((rc = json_iter_next(&it, NULL, &value, err)) == 0) {
        if (r->held_count == TRACERI_HELD_MAX || !json_uint64(value, &r->held[r->held_count++]))
            FAIL(err, E_FORMAT, ERR_FATAL, "\"held_us\" is not a short list of numbers");
    }
    if (rc == E_END)
        rc = 0;
out:
    return rc;
}

enum {
    F_PHASE,
    F_FROM,
    F_EPOCH,
    F_AUTH,
    F_FENCED,
    F_SEED,
    F_FILL,
    F_VERIFY,
    F_N,
    F_HELD,
    F_ERROR,
    F_GONE,
    F_CANARY,
    F_SINCE
};

int
traceri_record_get(struct slice json, struct traceri_record *r, struct err *err)
{
    struct json_field f[] = {
        {.name = "phase", .required = true},
        {.name = "from", .required = true},
        {.name = "epoch", .required = true},
        {.name = "authority", .required = true},
        {.name = "fenced", .required = true},
        {.name = "seed", .required = true},
        {.name = "backfill", .required = true},
        {.name = "verify", .required = true},
        {.name = "switches", .required = true},
        {.name = "held_us", .required = true},
        {.name = "error", .required = true},
        {.name = "dismantled", .required = true},
        {.name = "canary"}, /* older records have none of these */
        {.name = "since"},
    };
    unsigned phase = 0, from = 0, authority = 0, fenced = 0;
    int      rc;

    memset(r, 0, sizeof *r);
    TRY(json_pick(json, f, sizeof f / sizeof f[0], JSON_PICK_ANY, err));
    TRY(word_of(f[F_PHASE].value, phases, TRACER_HALTED + 1, &phase, err));
    TRY(word_of(f[F_FROM].value, phases, TRACER_HALTED + 1, &from, err));
    TRY(word_of(f[F_AUTH].value, sides, 3, &authority, err));
    TRY(word_of(f[F_FENCED].value, sides, 2, &fenced, err));
    r->phase = (enum tracer_phase)phase;
    r->from = (enum tracer_phase)from;
    r->authority = (enum tracer_side)authority;
    r->fenced = (enum tracer_side)fenced;
    if (!json_uint64(f[F_EPOCH].value, &r->epoch) || !json_uint64(f[F_SEED].value, &r->seed) ||
        !json_uint64(f[F_N].value, &r->switches) || !json_bool(f[F_GONE].value, &r->dismantled) ||
        (f[F_CANARY].value.len > 0 && !json_bool(f[F_CANARY].value, &r->canary)) ||
        (f[F_SINCE].value.len > 0 && !json_uint64(f[F_SINCE].value, &r->since)))
        FAIL(err, E_FORMAT, ERR_FATAL, "a number of the record is none");
    TRY(read_backfill(f[F_FILL].value, r, err));
    TRY(read_verify(f[F_VERIFY].value, r, err));
    TRY(read_held(f[F_HELD].value, r, err));
    TRY(text_of(f[F_ERROR].value, r->error, sizeof r->error, err));
out:
    if (rc != 0) {
        if (err != NULL)
            err->kind = ERR_FATAL;
        err_prefix(err, "the migration's record");
    }
    return rc;
}

int
tracer_record_json(struct log *log, const char *name, struct buf *out, struct err *err)
{
    char             stream[LOG_NAME_MAX + 1];
    struct log_read  read = {.from = UINT64_MAX, .backwards = true};
    struct log_iter *it = NULL;
    struct log_event ev;
    int              rc;

    traceri_record_stream(name, stream);
    read.stream = slice_str(stream);
    TRY(log_iter_open(log, &read, &it, err));
    TRY(log_iter_next(it, &ev, err));
    buf_add_slice(out, ev.data);
    if (out->failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a record");
out:
    log_iter_close(it);
    return rc;
}
