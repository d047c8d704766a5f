/*
 * Scripts: each stream has globals and libraries of its own and runs the script anew, so that
 * nothing but `state` and what the script keeps itself goes from one event to the next, and
 * nothing at all from one stream to another, although they share a virtual machine. Its
 * memory is counted by its allocator, its time in instructions, never by a clock: two runs
 * fail at the same event.
 */
#include <assert.h>
#include <stdlib.h>

#include "base/must.h"
#include "base/rfc3339.h"
#include "transform/lua_int.h"

#define MESSAGE_MAX 4096 /* bytes: what a message may still have beyond the budget */
#define BYTES_PER_STEP 16
#define REUSE_MAX ((size_t)1 << 20) /* bytes that a stream may leave behind for the next one */

struct transformi_script {
    char                    *file;
    struct buf               code; /* compiled */
    struct transformi_limits limits;
    bool                     has_begin, has_event, has_finish;
};

/* One output of a call; offsets and lengths in run->bytes. */
struct transformi_result {
    size_t stream, stream_len, type, type_len, data, data_len, meta, meta_len;
    size_t origin, origins;
    bool   routed, json, changed;
};

/* In the registry: the script's `state`, the script itself, what _G has before it runs, the keys of
 * an event. */
static const char state_key, chunk_key, globals_key, keys_key;

/* memory and time */

static void *
allocate(void *arg, void *p, size_t old, size_t size)
{
    struct transformi_script_run *run = arg;
    size_t                        limit = (size_t)run->script->limits.memory;
    void                         *out;

    if (p == NULL)
        old = 0;
    if (size == 0) {
        transformi_pool_give(&run->pool, p, old);
        run->memory -= old;
        return NULL;
    }
    if (size > old) {
        bool full = run->memory - old + size > limit;
        /* A refusal makes Lua go through all that there is. */
        uint64_t cost = (full ? run->memory : size) / BYTES_PER_STEP;

        run->left = run->left > cost ? run->left - cost : 0;
        if (run->loaded && run->left == 0 && run->over == TRANSFORMI_WITHIN)
            run->over = TRANSFORMI_OVER_BUDGET;
        if (full || (run->over != TRANSFORMI_WITHIN && size > MESSAGE_MAX))
            return NULL;
    }
    out = transformi_pool_move(&run->pool, p, old, size);
    if (out != NULL)
        run->memory += size - old;
    return out;
}

static void
hook(lua_State *L, lua_Debug *ar)
{
    struct transformi_script_run *run = transformi_run_of(L);

    if (atomic_load(run->stop) && run->over == TRANSFORMI_WITHIN)
        run->over = TRANSFORMI_STOPPED;
    if (run->left < TRANSFORMI_HOOK_EVERY && run->over == TRANSFORMI_WITHIN)
        run->over = TRANSFORMI_OVER_BUDGET;
    if (run->over == TRANSFORMI_WITHIN) {
        run->left -= TRANSFORMI_HOOK_EVERY;
        return;
    }
    luaL_where(L, 0);
    lua_pushliteral(L, "too many instructions");
    lua_concat(L, 2);
    (void)lua_error(L);
}

/* errors */

/* What stands on the stack after a call that failed; pops it. */
static int
script_error(struct transformi_script_run *run, int status, struct err *err)
{
    lua_State                      *L = run->L;
    const struct transformi_limits *l = &run->script->limits;
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
    char        where[128] = "";
    int         rc;

    /* Of a refusal that names no line of its own, the line is in the text. */
    if (text != NULL && run->over != TRANSFORMI_WITHIN) {
        const char *end = strstr(text, ": ");

        if (end != NULL && end - text < (ptrdiff_t)sizeof where - 3)
            (void)snprintf(where, sizeof where, "%.*s: ", (int)(end - text), text);
    }
    if (run->over == TRANSFORMI_STOPPED)
        rc = err_set(err, __FILE__, __LINE__, E_INTERRUPTED, ERR_RETRY, "%swas stopped", where);
    else if (run->over == TRANSFORMI_OVER_BUDGET)
        rc = err_set(err, __FILE__, __LINE__, E_LIMIT, ERR_DATA,
                     "%s: %smore than %llu instructions in one call (limits.instructions)",
                     run->script->file, where, (unsigned long long)l->instructions);
    else if (status == LUA_ERRMEM)
        rc = err_set(err, __FILE__, __LINE__, E_LIMIT, ERR_DATA,
                     "%s: more than %llu bytes of memory (limits.memory)", run->script->file,
                     (unsigned long long)l->memory);
    else if (text == NULL)
        rc = err_set(err, __FILE__, __LINE__, E_SCHEMA, ERR_DATA,
                     "%s: an error that is no text but a %s", run->script->file,
                     luaL_typename(L, -1));
    else if (slice_starts(slice_str(text), slice_str(run->script->file)))
        rc = err_set(err, __FILE__, __LINE__, E_SCHEMA, ERR_DATA, "%s", text);
    else
        rc =
            err_set(err, __FILE__, __LINE__, E_SCHEMA, ERR_DATA, "%s: %s", run->script->file, text);
    lua_settop(L, 0);
    return rc;
}

static int
call(struct transformi_script_run *run, lua_CFunction f, void *arg, struct err *err)
{
    int status;

    run->left = run->script->limits.instructions;
    run->over = TRANSFORMI_WITHIN;
    lua_settop(run->L, 0);
    lua_pushcfunction(run->L, f);
    lua_pushlightuserdata(run->L, arg);
    status = lua_pcall(run->L, 1, 0, 0);
    if (status == LUA_OK && run->over == TRANSFORMI_WITHIN)
        return 0;
    if (status == LUA_OK)
        lua_pushliteral(run->L, "");
    return script_error(run, status, err);
}

/* compiling */

static int
dump(lua_State *L, const void *p, size_t size, void *arg)
{
    buf_add(arg, p, size);
    return 0;
}

struct source {
    struct slice text;
    struct buf  *code;
    char        *name; /* "@FILE" */
};

static int
compile(lua_State *L)
{
    const struct source *s = lua_touserdata(L, 1);

    if (luaL_loadbufferx(L, s->text.len == 0 ? "" : s->text.data, s->text.len, s->name, "t") != 0)
        return lua_error(L);
    (void)lua_dump(L, dump, s->code, 0);
    return 0;
}

/* Without a state that keeps, what a script sets globally must not outlive the event. */
static int
refuse_global(lua_State *L)
{
    return luaL_error(L, "the global \"%s\" is set: this script may keep no state",
                      lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "?");
}

static void
fix_globals(lua_State *L, int chunk)
{
    lua_newtable(L);
    lua_newtable(L);
    lua_pushglobaltable(L);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, refuse_global);
    lua_setfield(L, -2, "__newindex");
    (void)lua_setmetatable(L, -2);
    (void)lua_setupvalue(L, chunk, 1);
}

/* Pushes a copy of the table at the index. */
static void
push_copy(lua_State *L, int index)
{
    index = lua_absindex(L, index);
    lua_createtable(L, 0, 32);
    lua_pushnil(L);
    while (lua_next(L, index) != 0) {
        lua_pushvalue(L, -2);
        lua_insert(L, -2);
        lua_rawset(L, -4);
    }
}

/* Globals as no script has touched them, libraries too; the script runs in them. */
static void
renew(lua_State *L, const struct transformi_script_run *run)
{
    int top = lua_gettop(L), globals;

    (void)lua_rawgetp(L, LUA_REGISTRYINDEX, &globals_key);
    push_copy(L, -1);
    globals = lua_gettop(L);
    lua_pushnil(L);
    while (lua_next(L, top + 1) != 0) {
        if (lua_istable(L, -1) && !lua_rawequal(L, -1, top + 1)) {
            push_copy(L, -1);
            lua_setfield(L, globals, lua_tostring(L, -3));
        }
        lua_pop(L, 1);
    }
    lua_pushvalue(L, globals);
    lua_setfield(L, globals, "_G");
    lua_pushliteral(L, ""); /* ("x"):f() */
    (void)lua_getmetatable(L, -1);
    (void)lua_getfield(L, globals, "string");
    lua_setfield(L, -2, "__index");
    lua_pushvalue(L, globals);
    lua_rawseti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &chunk_key) == LUA_TFUNCTION) {
        int chunk = lua_gettop(L);

        lua_pushvalue(L, globals);
        (void)lua_setupvalue(L, chunk, 1);
        lua_pushvalue(L, chunk);
        lua_call(L, 0, 0);
        if ((run->may & TRANSFORM_STATE) == 0)
            fix_globals(L, chunk);
    }
    lua_settop(L, top);
}

static const char *const event_keys[] = {"type",    "data",    "metadata", "to", "origins",
                                         "stream",  "version", "position", "id", "created",
                                         "ordinal", "json",    NULL};

/* Makes the keys known by their addresses: Lua has one copy only of each short text. */
static void
keep_keys(lua_State *L, struct transformi_script_run *run)
{
    static_assert(sizeof event_keys / sizeof *event_keys == TRANSFORMI_EVENT_KEYS + 1, "all");
    lua_createtable(L, TRANSFORMI_EVENT_KEYS, 0);
    for (int i = 0; i < TRANSFORMI_EVENT_KEYS; i++) {
        run->keys[i] = lua_pushstring(L, event_keys[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_rawsetp(L, LUA_REGISTRYINDEX, &keys_key);
}

static int
open_all(lua_State *L)
{
    struct transformi_script_run *run = lua_touserdata(L, 1);

    transformi_open_base(L);
    transformi_open_string(L);
    transformi_open_table(L);
    transformi_open_json(L);
    keep_keys(L, run);
    lua_pushglobaltable(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &globals_key);
    if (run->script->code.len == 0)
        return 0;
    if (luaL_loadbufferx(L, (const char *)run->script->code.data, run->script->code.len, "script",
                         "b") != 0)
        return lua_error(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &chunk_key);
    renew(L, run);
    return 0;
}

static int
look_at_globals(lua_State *L)
{
    struct transformi_script *s = lua_touserdata(L, 1);

    s->has_begin = lua_getglobal(L, "begin") == LUA_TFUNCTION;
    s->has_event = lua_getglobal(L, "event") == LUA_TFUNCTION;
    s->has_finish = lua_getglobal(L, "finish") == LUA_TFUNCTION;
    return 0;
}

int
transformi_script_new(const char *file, struct slice text, const struct transformi_limits *limits,
                      struct transformi_script **out, struct err *err)
{
    static const atomic_bool      never = false;
    struct transformi_script     *s = calloc(1, sizeof *s);
    struct transformi_script_run *run = NULL;
    struct source                 source = {text, NULL, NULL};
    int                           rc;

    *out = NULL;
    if (s == NULL || (s->file = transformi_copy(slice_str(file))) == NULL ||
        (source.name = malloc(strlen(file) + 2)) == NULL)
        FAIL(err, E_NOMEM, ERR_FATAL, "no memory for a script");
    source.name[0] = '@';
    memcpy(source.name + 1, file, strlen(file) + 1);
    s->limits = *limits;
    source.code = &s->code;
    TRY(transformi_script_run_new(s, TRANSFORM_STATE, &never, &run, err));
    TRY(call(run, compile, &source, err));
    if (s->code.failed)
        FAIL(err, E_NOMEM, ERR_FATAL, "no memory for a script");
    transformi_script_run_free(run);
    run = NULL;
    TRY(transformi_script_run_new(s, TRANSFORM_STATE, &never, &run, err));
    TRY(call(run, look_at_globals, s, err));
    if (!s->has_event && !s->has_finish)
        FAIL(err, E_SCHEMA, ERR_FATAL, "%s: has no function event(e, state) and no finish(state)",
             file);
    *out = s;
    s = NULL;
out:
    if (rc != 0 && err != NULL)
        err->kind = ERR_FATAL;
    transformi_script_run_free(run);
    transformi_script_free(s);
    free(source.name);
    return rc;
}

void
transformi_script_free(struct transformi_script *s)
{
    if (s == NULL)
        return;
    buf_fini(&s->code);
    free(s->file);
    free(s);
}

bool
transformi_script_stateful(const struct transformi_script *s)
{
    return s->has_begin || s->has_finish;
}

int
transformi_script_run_new(const struct transformi_script *s, unsigned may, const atomic_bool *stop,
                          struct transformi_script_run **out, struct err *err)
{
    struct transformi_script_run *run = calloc(1, sizeof *run);
    int                           rc = 0;

    *out = NULL;
    if (run == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "no memory for a script");
    run->script = s;
    run->may = may;
    run->stop = stop;
    run->bytes.limit = (size_t)s->limits.memory;
    run->origins.limit = run->absorbed.limit = (size_t)s->limits.memory;
    run->L = lua_newstate(allocate, run);
    if (run->L == NULL)
        FAIL(err, E_LIMIT, ERR_FATAL, "%s: no memory for a script", s->file);
    memcpy(lua_getextraspace(run->L), &run, sizeof(struct transformi_script_run *));
    lua_sethook(run->L, hook, LUA_MASKCOUNT, TRANSFORMI_HOOK_EVERY);
    /* What is always there is most of it: collecting waits until eight times as much is. */
    (void)lua_gc(run->L, LUA_GCINC, 800, 0, 0);
    run->loaded = true;
    TRY(call(run, open_all, run, err));
    run->fresh = true;
    *out = run;
    run = NULL;
out:
    transformi_script_run_free(run);
    return rc;
}

void
transformi_script_run_free(struct transformi_script_run *run)
{
    if (run == NULL)
        return;
    if (run->L != NULL)
        lua_close(run->L);
    free(run->pool.blocks);
    buf_fini(&run->bytes);
    buf_fini(&run->outputs);
    buf_fini(&run->origins);
    buf_fini(&run->absorbed);
    buf_fini(&run->scratch);
    buf_fini(&run->canon[0]);
    buf_fini(&run->canon[1]);
    free(run);
}

/* an event as a table */

static void
set_text(lua_State *L, const char *name, struct slice text)
{
    (void)lua_pushlstring(L, text.data, text.len);
    lua_setfield(L, -2, name);
}

static void
push_event(lua_State *L, const struct transform_event *in, uint64_t ordinal)
{
    char         id[ID_TEXT_LEN + 1], created[TIME_TEXT_MAX];
    struct slice raw;

    id_format(&in->id, id);
    time_format(in->created_us, created);
    lua_createtable(L, 0, 10);
    set_text(L, "stream", in->stream);
    set_text(L, "type", in->type);
    set_text(L, "id", slice_str(id));
    set_text(L, "created", slice_str(created));
    lua_pushinteger(L, (lua_Integer)in->version);
    lua_setfield(L, -2, "version");
    lua_pushinteger(L, (lua_Integer)in->position);
    lua_setfield(L, -2, "position");
    lua_pushinteger(L, (lua_Integer)ordinal);
    lua_setfield(L, -2, "ordinal");
    lua_pushboolean(L, in->json);
    lua_setfield(L, -2, "json");
    if (in->json)
        transformi_decode(L, in->data);
    else
        (void)lua_pushlstring(L, in->data.data, in->data.len);
    lua_setfield(L, -2, "data");
    if (in->meta.len == 0)
        transformi_decode(L, slice_str("{}"));
    else if (json_value(in->meta, &raw, NULL) == 0)
        transformi_decode(L, raw);
    else
        return;
    lua_setfield(L, -2, "metadata");
}

/* outputs */

struct job {
    struct transformi_script_run *run;
    const struct transform_event *in; /* NULL: finish */
    struct slice                  stream;
    uint64_t                      ordinal;
};

static void
check_keys(lua_State *L, int index)
{
    const struct transformi_script_run *run = transformi_run_of(L);

    lua_pushnil(L);
    while (lua_next(L, index) != 0) {
        const char *key;
        int         i = 0;

        lua_pop(L, 1);
        if (lua_type(L, -1) != LUA_TSTRING)
            luaL_error(L, "an event with a key that is no text");
        key = lua_tostring(L, -1);
        while (i < TRANSFORMI_EVENT_KEYS && run->keys[i] != key)
            i++;
        if (i == TRANSFORMI_EVENT_KEYS)
            luaL_error(L, "an event with the unknown key \"%s\"", key);
    }
}

static void
check_room(lua_State *L, const struct buf *b)
{
    if (b->failed)
        luaL_error(L, "outputs that are too large");
}

static struct slice
part(const struct transformi_script_run *run, size_t at, size_t len)
{
    return slice_of(len == 0 ? (const uint8_t *)"" : run->bytes.data + at, len);
}

static void
put_bytes(lua_State *L, int index, const char *what, struct transformi_script_run *run, size_t *at,
          size_t *len)
{
    const char *text;

    if (lua_type(L, index) != LUA_TSTRING)
        luaL_error(L, "an event whose %s is no text but a %s", what, luaL_typename(L, index));
    text = lua_tolstring(L, index, len);
    *at = run->bytes.len;
    buf_add(&run->bytes, text, *len);
    check_room(L, &run->bytes);
}

/* Its data, and whether it is other than the input's. */
static bool
put_data(lua_State *L, int event, const struct job *j, struct transformi_result *r)
{
    struct transformi_script_run *run = j->run;
    struct slice                  raw = {0}, now;
    bool                          was_json = j->in != NULL && j->in->json;
    size_t                        start;

    (void)lua_getfield(L, event, "json");
    r->json = lua_isnil(L, -1) || lua_toboolean(L, -1);
    lua_pop(L, 1);
    if (lua_getfield(L, event, "data") == LUA_TNIL)
        luaL_error(L, "an event without data; null is a value");
    r->data = run->bytes.len;
    if (!r->json) {
        put_bytes(L, lua_gettop(L), "data", run, &r->data, &r->data_len);
        lua_pop(L, 1);
        return was_json || j->in == NULL || !slice_eq(part(run, r->data, r->data_len), j->in->data);
    }
    if (was_json && json_value(j->in->data, &raw, NULL) != 0)
        raw = slice_of(NULL, 0);
    transformi_encode(L, -1, raw, &run->bytes);
    lua_pop(L, 1);
    r->data_len = run->bytes.len - r->data;
    now = part(run, r->data, r->data_len);
    if (!was_json || !slice_eq(now, raw))
        return true;
    if (raw.len != j->in->data.len) { /* with the spaces around it */
        start = run->bytes.len;
        buf_add_slice(&run->bytes, j->in->data);
        check_room(L, &run->bytes);
        r->data = start;
        r->data_len = j->in->data.len;
    }
    return false;
}

static bool
put_meta(lua_State *L, int event, bool own, const struct job *j, struct transformi_result *r)
{
    struct transformi_script_run *run = j->run;
    struct slice                  raw = {0}, now;
    int                           type = lua_getfield(L, event, "metadata");
    bool                          was_json =
        j->in != NULL && j->in->meta.len > 0 && json_value(j->in->meta, &raw, NULL) == 0;

    r->meta = run->bytes.len;
    if (type == LUA_TNIL) {
        bool keep = own && j->in->meta.len > 0 && !was_json; /* it was never there to see */

        if (keep)
            buf_add_slice(&run->bytes, j->in->meta);
        r->meta_len = run->bytes.len - r->meta;
        lua_pop(L, 1);
        return !keep && (j->in == NULL || j->in->meta.len > 0);
    }
    transformi_encode(L, -1, raw, &run->bytes);
    lua_pop(L, 1);
    r->meta_len = run->bytes.len - r->meta;
    now = part(run, r->meta, r->meta_len);
    if (json_type(now) != JSON_OBJECT && !(was_json && slice_eq(now, raw)))
        luaL_error(L, "an event whose metadata is no table of names");
    if (!was_json && slice_is(now, "{}")) {
        r->meta_len = 0;
        return j->in != NULL && j->in->meta.len > 0;
    }
    if (!was_json || !slice_eq(now, raw))
        return true;
    r->meta = run->bytes.len;
    r->meta_len = j->in->meta.len;
    buf_add_slice(&run->bytes, j->in->meta);
    check_room(L, &run->bytes);
    return false;
}

static int
by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* No longer among those that gave nothing. */
static void
claim(struct transformi_script_run *run, uint64_t ordinal)
{
    uint64_t *list = (uint64_t *)(void *)run->absorbed.data, *at;
    size_t    n = run->absorbed.len / sizeof *list;

    at = n == 0 ? NULL : bsearch(&ordinal, list, n, sizeof *list, by_number);
    if (at == NULL)
        return;
    memmove(at, at + 1, (size_t)(list + n - at - 1) * sizeof *list);
    run->absorbed.len -= sizeof *list;
}

static void
put_origins(lua_State *L, int event, const struct job *j, struct transformi_result *r)
{
    struct transformi_script_run *run = j->run;
    uint64_t                      bound = j->in == NULL ? run->inputs : j->ordinal + 1, o;
    uint64_t                     *list;
    size_t                        n = 0;
    lua_Integer                   count;

    r->origin = run->origins.len / sizeof o;
    if (lua_getfield(L, event, "origins") == LUA_TNIL) {
        if (j->in != NULL)
            buf_add(&run->origins, &j->ordinal, sizeof o);
        else if (run->absorbed.len > 0)
            buf_add_slice(&run->origins, buf_slice(&run->absorbed));
        else
            for (o = 0; o < bound; o++)
                buf_add(&run->origins, &o, sizeof o);
        check_room(L, &run->origins);
        r->origins = run->origins.len / sizeof o - r->origin;
        lua_pop(L, 1);
        if (r->origins == 0)
            luaL_error(L, "an event that stands for no input");
        return;
    }
    luaL_checktype(L, -1, LUA_TTABLE);
    count = (lua_Integer)lua_rawlen(L, -1);
    transformi_charge(L, (uint64_t)count);
    for (lua_Integer i = 1; i <= count; i++) {
        int         is_integer;
        lua_Integer v;

        lua_rawgeti(L, -1, i);
        v = lua_tointegerx(L, -1, &is_integer);
        if (!is_integer || v < 0 || (uint64_t)v >= bound)
            luaL_error(L, "origins: must be ordinals of events up to this one");
        o = (uint64_t)v;
        buf_add(&run->origins, &o, sizeof o);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    check_room(L, &run->origins);
    if (count == 0)
        luaL_error(L, "origins: must not be empty");
    list = (uint64_t *)(void *)run->origins.data + r->origin;
    qsort(list, (size_t)count, sizeof *list, by_number);
    for (size_t i = 0; i < (size_t)count; i++) {
        if (n == 0 || list[n - 1] != list[i])
            list[n++] = list[i];
    }
    run->origins.len = (r->origin + n) * sizeof *list;
    r->origins = n;
}

/* The rules that hold for one output; raises what is wrong. */
static void
check_result(lua_State *L, const struct job *j, const struct transformi_result *r)
{
    struct transformi_script_run *run = j->run;
    const uint64_t               *first = (const uint64_t *)(void *)run->origins.data + r->origin;
    struct transform_out          out = {.type = part(run, r->type, r->type_len),
                                         .data = part(run, r->data, r->data_len),
                                         .meta = part(run, r->meta, r->meta_len)};
    struct err                    why = {0};

    if (r->routed)
        out.stream = part(run, r->stream, r->stream_len);
    if (transformi_out_check(&out, j->in == NULL ? slice_of(NULL, 0) : j->in->type, &why) != 0)
        luaL_error(L, "%s", why.text);
    if (r->changed && (run->may & TRANSFORM_CHANGE) == 0)
        luaL_error(L, "an event is changed, which this script may not");
    if (r->routed && (run->may & TRANSFORM_ROUTE) == 0)
        luaL_error(L, "an event is routed, which this script may not");
    if ((r->origins > 1 || (j->in != NULL && first[0] != j->ordinal)) &&
        (run->may & TRANSFORM_STATE) == 0)
        luaL_error(L, "an event stands for others, which this script may not");
}

static void
add_result(lua_State *L, const struct job *j, const struct transformi_result *r)
{
    struct transformi_script_run *run = j->run;
    size_t                        n = run->outputs.len / sizeof *r;

    if (n == run->script->limits.outputs)
        luaL_error(L, "more than %d events in one call (limits.outputs)",
                   (int)run->script->limits.outputs);
    if (n == 1 && j->in != NULL && (run->may & TRANSFORM_ADD) == 0)
        luaL_error(L, "an event becomes several, which this script may not");
    check_result(L, j, r);
    buf_add(&run->outputs, r, sizeof *r);
    check_room(L, &run->outputs);
}

/* The event at the index, once for each stream in `to`. */
static void
put_event(lua_State *L, int index, int input, const struct job *j)
{
    struct transformi_script_run *run = j->run;
    struct transformi_result      r = {0};
    bool                          own = j->in != NULL && lua_rawequal(L, index, input);
    int                           type;
    lua_Integer                   n;

    luaL_checkstack(L, 20, "outputs");
    check_keys(L, index);
    (void)lua_getfield(L, index, "type");
    put_bytes(L, lua_gettop(L), "type", run, &r.type, &r.type_len);
    lua_pop(L, 1);
    r.changed = j->in == NULL || !slice_eq(part(run, r.type, r.type_len), j->in->type);
    r.changed = put_data(L, index, j, &r) || r.changed;
    r.changed = put_meta(L, index, own, j, &r) || r.changed;
    put_origins(L, index, j, &r);
    r.changed = r.changed || r.origins != 1 ||
                ((const uint64_t *)(void *)run->origins.data)[r.origin] != j->ordinal;
    type = lua_getfield(L, index, "to");
    if (type == LUA_TNIL) {
        add_result(L, j, &r);
        lua_pop(L, 1);
        return;
    }
    r.routed = true;
    if (type != LUA_TTABLE) {
        put_bytes(L, lua_gettop(L), "to", run, &r.stream, &r.stream_len);
        add_result(L, j, &r);
    }
    n = type == LUA_TTABLE ? (lua_Integer)lua_rawlen(L, -1) : 0;
    if (type == LUA_TTABLE && n == 0)
        luaL_error(L, "to: an empty list");
    for (lua_Integer i = 1; i <= n; i++) {
        lua_rawgeti(L, -1, i);
        put_bytes(L, lua_gettop(L), "to", run, &r.stream, &r.stream_len);
        add_result(L, j, &r);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

/* What event or finish gave back stands on the top of the stack. */
static void
put_results(lua_State *L, int input, const struct job *j)
{
    int         top = lua_gettop(L);
    lua_Integer n;

    if (j->in != NULL && (lua_isnil(L, top) || (lua_isboolean(L, top) && lua_toboolean(L, top)))) {
        put_event(L, input, input, j);
        return;
    }
    if (lua_isnil(L, top) || (lua_isboolean(L, top) && !lua_toboolean(L, top)))
        return;
    if (!lua_istable(L, top))
        luaL_error(L, "must give nothing, false, an event or a list of events, not a %s",
                   luaL_typename(L, top));
    if (lua_getfield(L, top, "type") != LUA_TNIL) {
        lua_pop(L, 1);
        put_event(L, top, input, j);
        return;
    }
    lua_pop(L, 1);
    n = (lua_Integer)lua_rawlen(L, top);
    lua_pushnil(L);
    if (n == 0 && lua_next(L, top) != 0)
        luaL_error(L, "an event without a type");
    lua_settop(L, top);
    for (lua_Integer i = 1; i <= n; i++) {
        if (lua_rawgeti(L, top, i) != LUA_TTABLE)
            luaL_error(L, "a list of events with a %s in it", luaL_typename(L, -1));
        put_event(L, lua_gettop(L), input, j);
        lua_pop(L, 1);
    }
}

/* calls of the script */

static void
push_state(lua_State *L, const struct transformi_script_run *run)
{
    if ((run->may & TRANSFORM_STATE) == 0)
        lua_pushnil(L);
    else
        lua_rawgetp(L, LUA_REGISTRYINDEX, &state_key);
}

static int
call_begin(lua_State *L)
{
    const struct job *j = lua_touserdata(L, 1);

    if (!j->run->fresh)
        renew(L, j->run);
    lua_newtable(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &state_key);
    if (!j->run->script->has_begin)
        return 0;
    (void)lua_getglobal(L, "begin");
    push_state(L, j->run);
    (void)lua_pushlstring(L, j->stream.data, j->stream.len);
    lua_call(L, 2, 0);
    return 0;
}

static int
call_event(lua_State *L)
{
    const struct job             *j = lua_touserdata(L, 1);
    struct transformi_script_run *run = j->run;

    push_event(L, j->in, j->ordinal);
    if (run->script->has_event) {
        (void)lua_getglobal(L, "event");
        lua_pushvalue(L, 2);
        push_state(L, run);
        lua_call(L, 2, 1);
    } else {
        lua_pushnil(L);
    }
    put_results(L, 2, j);
    if (run->outputs.len == 0 && (run->may & TRANSFORM_DROP) == 0)
        luaL_error(L, "an event is dropped, which this script may not");
    return 0;
}

static int
call_finish(lua_State *L)
{
    const struct job *j = lua_touserdata(L, 1);

    (void)lua_getglobal(L, "finish");
    push_state(L, j->run);
    lua_call(L, 1, 1);
    put_results(L, 0, j);
    return 0;
}

int
transformi_script_begin(struct transformi_script_run *run, struct slice stream, struct err *err)
{
    struct job j = {.run = run, .stream = stream};
    int        rc;

    run->inputs = 0;
    buf_clear(&run->absorbed);
    /* Counting begins anew too, so that a stream ends at the same instruction wherever it runs. */
    lua_sethook(run->L, hook, LUA_MASKCOUNT, TRANSFORMI_HOOK_EVERY);
    rc = call(run, call_begin, &j, err);
    run->fresh = false;
    return rc;
}

bool
transformi_script_reusable(const struct transformi_script_run *run)
{
    return run->memory <= REUSE_MAX;
}

static void
clear_outputs(struct transformi_script_run *run)
{
    buf_clear(&run->bytes);
    buf_clear(&run->outputs);
    buf_clear(&run->origins);
}

static int
emit_all(struct transformi_script_run *run, transform_emit_fn *emit, void *arg, struct err *err)
{
    const struct transformi_result *r = (const void *)run->outputs.data;
    size_t                          count = run->outputs.len / sizeof *r;
    int                             rc = 0;

    for (size_t i = 0; i < count; i++, r++) {
        struct transform_out out = {.type = part(run, r->type, r->type_len),
                                    .data = part(run, r->data, r->data_len),
                                    .meta = part(run, r->meta, r->meta_len),
                                    .json = r->json,
                                    .changed = r->changed};

        if (r->routed)
            out.stream = part(run, r->stream, r->stream_len);
        out.origins = (const uint64_t *)(void *)run->origins.data + r->origin;
        out.origin_count = r->origins;
        for (size_t k = 0; run->script->has_finish && k < r->origins; k++)
            claim(run, out.origins[k]);
        TRY(emit(arg, &out, err));
    }
out:
    return rc;
}

int
transformi_script_event(struct transformi_script_run *run, const struct transform_event *in,
                        uint64_t ordinal, transform_emit_fn *emit, void *arg, struct err *err)
{
    struct job j = {.run = run, .in = in, .ordinal = ordinal};
    int        rc;

    clear_outputs(run);
    TRY(call(run, call_event, &j, err));
    run->inputs = ordinal + 1;
    if (run->outputs.len == 0 && run->script->has_finish)
        buf_add(&run->absorbed, &ordinal, sizeof ordinal);
    if (run->absorbed.failed)
        FAIL(err, E_LIMIT, ERR_DATA, "%s: too many events that gave nothing", run->script->file);
    TRY(emit_all(run, emit, arg, err));
out:
    return rc;
}

int
transformi_script_end(struct transformi_script_run *run, transform_emit_fn *emit, void *arg,
                      struct err *err)
{
    struct job j = {.run = run};
    int        rc;

    if (!run->script->has_finish)
        return 0;
    clear_outputs(run);
    TRY(call(run, call_finish, &j, err));
    TRY(emit_all(run, emit, arg, err));
out:
    return rc;
}
