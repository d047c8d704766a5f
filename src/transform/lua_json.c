/*
 * JSON in Lua: objects and arrays are tables that remember the text they came
 * from. What a script leaves as it was is written as it was spelled; new keys
 * of an object come last, sorted.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/must.h"
#include "base/utf8.h"
#include "transform/lua_int.h"

static const char records_key, decimal_key;

/* decimals */

const char *
transformi_decimal(lua_State *L, int index, size_t *len)
{
    const char *text = NULL;

    if (lua_type(L, index) != LUA_TUSERDATA || lua_getmetatable(L, index) == 0)
        return NULL;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &decimal_key);
    if (lua_rawequal(L, -1, -2)) {
        text = lua_touserdata(L, index);
        *len = lua_rawlen(L, index) - 1;
    }
    lua_pop(L, 2);
    return text;
}

static void
push_decimal(lua_State *L, struct slice raw)
{
    char *text = lua_newuserdatauv(L, raw.len + 1, 0);

    memcpy(text, raw.data, raw.len);
    text[raw.len] = '\0';
    lua_rawgetp(L, LUA_REGISTRYINDEX, &decimal_key);
    (void)lua_setmetatable(L, -2);
}

/* The canonical form of a number into buffer i; false where it has none. */
static bool
canonical(lua_State *L, int i, struct slice raw)
{
    struct buf *b = &transformi_run_of(L)->canon[i];

    buf_clear(b);
    return json_canonical(raw, b, NULL) == 0 && !b->failed;
}

static int
decimal_eq(lua_State *L)
{
    const struct transformi_script_run *run = transformi_run_of(L);
    size_t                              len_a = 0, len_b = 0;
    const char *a = transformi_decimal(L, 1, &len_a), *b = transformi_decimal(L, 2, &len_b);
    bool        both = a != NULL && b != NULL && canonical(L, 0, slice_of(a, len_a)) &&
                canonical(L, 1, slice_of(b, len_b));

    lua_pushboolean(L, both && slice_eq(buf_slice(&run->canon[0]), buf_slice(&run->canon[1])));
    return 1;
}

/* decimal("1.50"): a number that is written as it is spelled here. */
static int
make_decimal(lua_State *L)
{
    struct slice text, raw;
    size_t       len = 0;

    if (transformi_decimal(L, 1, &len) != NULL) {
        lua_settop(L, 1);
        return 1;
    }
    text.data = luaL_checklstring(L, 1, &text.len);
    if (json_value(text, &raw, NULL) != 0 || json_type(raw) != JSON_NUMBER)
        return luaL_error(L, "decimal: no number of JSON");
    push_decimal(L, raw);
    return 1;
}

/* How many digits count, without zeros at either end; and whether the exponent is moderate. */
static unsigned
significant(struct slice raw, bool *moderate)
{
    const char *p = raw.data, *end = p + raw.len;
    unsigned    digits = 0, zeros = 0;

    *moderate = raw.len < 100;
    for (; p < end && *p != 'e' && *p != 'E'; p++) {
        if (*p == '0') {
            zeros += digits > 0;
        } else if (*p >= '1' && *p <= '9') {
            digits += zeros + 1;
            zeros = 0;
        }
    }
    if (p < end)
        *moderate = end - p <= 4 && raw.len < 100;
    return digits;
}

/* Whether the shortest spelling of the double is the same number. */
static bool
survives(lua_State *L, double v, struct slice raw)
{
    const struct transformi_script_run *run = transformi_run_of(L);
    struct json_out                     o;
    struct buf                          text = {0};
    bool                                same = false;

    if (isfinite(v)) {
        json_out_init(&o, &text);
        json_out_double(&o, v);
        same = !text.failed && canonical(L, 0, raw) && canonical(L, 1, buf_slice(&text)) &&
               slice_eq(buf_slice(&run->canon[0]), buf_slice(&run->canon[1]));
    }
    buf_fini(&text);
    return same;
}

void
transformi_push_number(lua_State *L, struct slice raw)
{
    char    text[128];
    bool    moderate;
    int64_t integer;
    double  v;

    if (json_int64(raw, &integer)) {
        lua_pushinteger(L, integer);
        return;
    }
    if (raw.len < sizeof text) {
        memcpy(text, raw.data, raw.len);
        text[raw.len] = '\0';
        v = strtod(text, NULL);
        if ((significant(raw, &moderate) <= 15 && moderate && isfinite(v)) || survives(L, v, raw)) {
            lua_pushnumber(L, v);
            return;
        }
    }
    push_decimal(L, raw);
}

/* decoding */

static void
push_string(lua_State *L, struct slice inner)
{
    struct buf  *scratch = &transformi_run_of(L)->scratch;
    struct slice raw = slice_of((const char *)inner.data - 1, inner.len + 2), text;

    if (inner.len == 0 || memchr(inner.data, '\\', inner.len) == NULL) {
        (void)lua_pushlstring(L, inner.data, inner.len);
        return;
    }
    if (json_string_view(raw, scratch, &text, NULL) != 0)
        luaL_error(L, "a text that cannot be read");
    (void)lua_pushlstring(L, text.data, text.len);
}

static void
push_scalar(lua_State *L, struct slice raw)
{
    switch (json_type(raw)) {
    case JSON_STRING:
        push_string(L, slice_of((const char *)raw.data + 1, raw.len - 2));
        break;
    case JSON_NUMBER:
        transformi_push_number(L, raw);
        break;
    case JSON_NULL:
        lua_pushlightuserdata(L, NULL);
        break;
    default:
        lua_pushboolean(L, json_type(raw) == JSON_TRUE);
    }
}

/* records[table at the index] = the text. */
static void
remember(lua_State *L, int index, struct slice raw)
{
    index = lua_absindex(L, index);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &records_key);
    lua_pushvalue(L, index);
    (void)lua_pushlstring(L, raw.data, raw.len);
    lua_rawset(L, -3);
    lua_pop(L, 1);
}

struct level {
    const uint8_t *start;
    bool           object;
    lua_Integer    count;
};

/* The value on the top of the stack into what is open below it. */
static void
store(lua_State *L, struct level *level)
{
    if (!level->object) {
        lua_rawseti(L, -2, ++level->count);
        return;
    }
    lua_pushvalue(L, -2);
    if (lua_rawget(L, -4) != LUA_TNIL)
        luaL_error(L, "an object with a key that comes twice");
    lua_pop(L, 1);
    lua_rawset(L, -3);
}

void
transformi_decode(lua_State *L, struct slice raw)
{
    struct level       levels[JSON_DEPTH_MAX];
    struct json_reader r;
    enum json_type     token;
    struct slice       piece;
    size_t             depth = 0;
    int                rc;

    luaL_checkstack(L, 3 * JSON_DEPTH_MAX, "deep JSON");
    transformi_charge_bytes(L, raw.len);
    json_reader_init(&r, raw);
    while ((rc = json_next(&r, &token, &piece, NULL)) == 0) {
        if (token == JSON_KEY) {
            push_string(L, piece);
            continue;
        }
        if (token == JSON_OBJECT || token == JSON_ARRAY) {
            lua_newtable(L);
            levels[depth++] = (struct level){piece.data, token == JSON_OBJECT, 0};
            continue;
        }
        if (token == JSON_OBJECT_END || token == JSON_ARRAY_END) {
            const uint8_t *start; /* the reader pairs brackets */

            /* NOLINTNEXTLINE(clang-analyzer-core.uninitialized.Assign) */
            start = levels[--depth].start;

            remember(L, -1, slice_of(start, (size_t)((const uint8_t *)piece.data + 1 - start)));
        } else {
            push_scalar(L, piece);
        }
        if (depth > 0)
            store(L, &levels[depth - 1]);
    }
    if (rc != E_END)
        luaL_error(L, "no JSON");
}

/* encoding */

struct encoder {
    lua_State  *L;
    struct buf *out;
    unsigned    depth;
};

static void encode_value(struct encoder *e, int index, struct slice raw);

static void
check_room(struct encoder *e)
{
    if (e->out->failed)
        luaL_error(e->L, "an output that is too large");
}

static void
put_float(struct encoder *e, double v)
{
    struct json_out o;
    size_t          at = e->out->len;

    if (!isfinite(v))
        luaL_error(e->L, "a number that JSON has not: %s", isnan(v) ? "nan" : "inf");
    if (floor(v) == v && fabs(v) < 1e15) {
        buf_printf(e->out, "%.1f", v);
        return;
    }
    json_out_init(&o, e->out);
    json_out_double(&o, v);
    if (!e->out->failed && memchr(e->out->data + at, 'e', e->out->len - at) == NULL &&
        memchr(e->out->data + at, '.', e->out->len - at) == NULL)
        buf_add_str(e->out, ".0");
}

static void
put_text(struct encoder *e, int index)
{
    struct slice text;

    text.data = lua_tolstring(e->L, index, &text.len);
    transformi_charge_bytes(e->L, text.len);
    if (!utf8_valid(text))
        luaL_error(e->L, "a text that is not UTF-8");
    json_put_string(e->out, text);
}

/* A scalar that is what the text says. */
static bool
same(lua_State *L, int index, struct slice raw)
{
    enum json_type type = json_type(raw);
    size_t         len = 0;
    const char    *decimal;
    bool           equal;

    if (type == JSON_NONE || type == JSON_OBJECT || type == JSON_ARRAY)
        return false;
    decimal = transformi_decimal(L, index, &len);
    if (decimal != NULL)
        return slice_eq(slice_of(decimal, len), raw);
    push_scalar(L, raw);
    equal = lua_rawequal(L, -1, index) != 0;
    lua_pop(L, 1);
    return equal;
}

/* Pushes the text that a table came from; an empty slice where it is new. */
static struct slice
push_record(lua_State *L, int index)
{
    struct slice raw = {0};

    lua_rawgetp(L, LUA_REGISTRYINDEX, &records_key);
    lua_pushvalue(L, index);
    (void)lua_rawget(L, -2);
    lua_remove(L, -2);
    if (lua_type(L, -1) == LUA_TSTRING)
        raw.data = lua_tolstring(L, -1, &raw.len);
    return raw;
}

/* What stood between the members that are kept. */
struct gaps {
    const uint8_t *kept_end, *last_end;
    struct slice   comma;
    size_t         members, kept;
};

static void
next_gap(struct gaps *g, struct slice box, const uint8_t *start, const uint8_t *end,
         struct buf *out)
{
    if (g->members++ == 0)
        buf_add(out, box.data, (size_t)(start - (const uint8_t *)box.data));
    if (g->kept_end != NULL && g->kept_end == g->last_end)
        g->comma = slice_of(g->kept_end, (size_t)(start - g->kept_end));
    g->last_end = end;
}

static void
keep_gap(struct gaps *g, struct buf *out)
{
    if (g->kept++ > 0)
        buf_add_slice(out, g->comma);
    g->kept_end = g->last_end;
}

/* After the last one: what is new, and the rest of the text. */
static void
end_gaps(struct gaps *g, struct slice box, struct buf *out)
{
    const uint8_t *end = (const uint8_t *)box.data + box.len;

    buf_add(out, g->last_end, (size_t)(end - g->last_end));
}

static int
by_bytes(const void *a, const void *b)
{
    return slice_cmp(*(const struct slice *)a, *(const struct slice *)b);
}

/* Pushes a set of the keys that the text has. */
static void
push_seen(lua_State *L, struct slice raw)
{
    struct json_iter it;
    struct slice     key = {0}, value;

    lua_newtable(L);
    must(json_object_iter(&it, raw, NULL) == 0);
    while (json_iter_next(&it, &key, &value, NULL) == 0) {
        push_string(L, key);
        lua_pushboolean(L, 1);
        lua_rawset(L, -3);
    }
}

/* The members that the text has not, sorted. */
static void
put_new_members(struct encoder *e, int index, struct slice raw, size_t total, size_t kept)
{
    lua_State    *L = e->L;
    struct slice *keys;
    size_t        count = 0;

    push_seen(L, raw);
    keys = lua_newuserdatauv(L, (total + 1) * sizeof *keys, 0);
    lua_pushnil(L);
    while (lua_next(L, index) != 0) {
        lua_pop(L, 1);
        lua_pushvalue(L, -1);
        if (lua_rawget(L, -4) == LUA_TNIL) {
            keys[count].data = lua_tolstring(L, -2, &keys[count].len);
            count++;
        }
        lua_pop(L, 1);
    }
    qsort(keys, count, sizeof *keys, by_bytes);
    for (size_t i = 0; i < count; i++) {
        if (kept + i > 0)
            buf_add_byte(e->out, ',');
        (void)lua_pushlstring(L, keys[i].data, keys[i].len);
        put_text(e, -1);
        buf_add_byte(e->out, ':');
        (void)lua_rawget(L, index);
        encode_value(e, lua_gettop(L), slice_of(NULL, 0));
        lua_pop(L, 1);
    }
    lua_pop(L, 2);
}

static size_t
count_members(lua_State *L, int index)
{
    size_t total = 0;

    lua_pushnil(L);
    while (lua_next(L, index) != 0) {
        lua_pop(L, 1);
        if (lua_type(L, -1) != LUA_TSTRING)
            luaL_error(L, "an object with a key that is no text but a %s", luaL_typename(L, -1));
        total++;
    }
    transformi_charge(L, total);
    return total;
}

static void
encode_object(struct encoder *e, int index, struct slice raw)
{
    lua_State       *L = e->L;
    struct json_iter it;
    struct slice     key = {0}, value;
    struct gaps      g = {.last_end = (const uint8_t *)raw.data + 1};
    size_t           total = count_members(L, index);

    must(json_object_iter(&it, raw, NULL) == 0);
    while (json_iter_next(&it, &key, &value, NULL) == 0) {
        const uint8_t *start = (const uint8_t *)key.data - 1;

        next_gap(&g, raw, start, (const uint8_t *)value.data + value.len, e->out);
        push_string(L, key);
        if (lua_rawget(L, index) != LUA_TNIL) {
            keep_gap(&g, e->out);
            buf_add(e->out, start, (size_t)((const uint8_t *)value.data - start));
            encode_value(e, lua_gettop(L), value);
        }
        lua_pop(L, 1);
    }
    if (g.members == 0)
        buf_add_byte(e->out, '{');
    if (total > g.kept)
        put_new_members(e, index, raw, total, g.kept);
    end_gaps(&g, raw, e->out);
}

static void
encode_array(struct encoder *e, int index, struct slice raw)
{
    lua_State       *L = e->L;
    struct json_iter it;
    struct slice     key, value;
    struct gaps      g = {.last_end = (const uint8_t *)raw.data + 1};
    size_t           n = lua_rawlen(L, index), total = 0;

    lua_pushnil(L);
    while (lua_next(L, index) != 0) {
        lua_pop(L, 1);
        if (!lua_isinteger(L, -1) || lua_tointeger(L, -1) < 1 || (size_t)lua_tointeger(L, -1) > n)
            luaL_error(L, "an array with a key that is not one of 1 to %d", (int)n);
        total++;
    }
    if (total != n)
        luaL_error(L, "an array with holes; null is a value");
    transformi_charge(L, n);
    must(json_array_iter(&it, raw, NULL) == 0);
    while (json_iter_next(&it, &key, &value, NULL) == 0) {
        next_gap(&g, raw, value.data, (const uint8_t *)value.data + value.len, e->out);
        if (g.members > n)
            continue;
        keep_gap(&g, e->out);
        lua_rawgeti(L, index, (lua_Integer)g.members);
        encode_value(e, lua_gettop(L), value);
        lua_pop(L, 1);
    }
    if (g.members == 0)
        buf_add_byte(e->out, '[');
    for (size_t i = g.kept; i < n; i++) {
        if (i > 0)
            buf_add_byte(e->out, ',');
        lua_rawgeti(L, index, (lua_Integer)i + 1);
        encode_value(e, lua_gettop(L), slice_of(NULL, 0));
        lua_pop(L, 1);
    }
    end_gaps(&g, raw, e->out);
}

static void
encode_table(struct encoder *e, int index)
{
    lua_State   *L = e->L;
    struct slice raw;

    luaL_checkstack(L, 16, "deep JSON");
    if (++e->depth > JSON_DEPTH_MAX)
        luaL_error(L, "tables within one another, more than %d deep, or one within itself",
                   JSON_DEPTH_MAX);
    transformi_charge(L, 10);
    check_room(e);
    raw = push_record(L, index);
    if (raw.len == 0)
        raw = slice_str(lua_rawlen(L, index) > 0 ? "[]" : "{}");
    transformi_charge_bytes(L, raw.len);
    if (json_type(raw) == JSON_ARRAY)
        encode_array(e, index, raw);
    else
        encode_object(e, index, raw);
    lua_pop(L, 1); /* the record */
    e->depth--;
}

static void
encode_value(struct encoder *e, int index, struct slice raw)
{
    lua_State  *L = e->L;
    size_t      len = 0;
    const char *decimal;

    if (same(L, index, raw)) {
        buf_add_slice(e->out, raw);
        return;
    }
    switch (lua_type(L, index)) {
    case LUA_TTABLE:
        encode_table(e, index);
        return;
    case LUA_TBOOLEAN:
        buf_add_str(e->out, lua_toboolean(L, index) ? "true" : "false");
        return;
    case LUA_TNUMBER:
        if (lua_isinteger(L, index))
            buf_add_i64(e->out, lua_tointeger(L, index));
        else
            put_float(e, lua_tonumber(L, index));
        return;
    case LUA_TSTRING:
        put_text(e, index);
        return;
    case LUA_TLIGHTUSERDATA:
        buf_add_str(e->out, "null");
        return;
    default:
        decimal = transformi_decimal(L, index, &len);
        if (decimal != NULL)
            buf_add(e->out, decimal, len);
        else
            luaL_error(L, "a %s is no value of JSON", luaL_typename(L, index));
    }
}

void
transformi_encode(lua_State *L, int index, struct slice raw, struct buf *out)
{
    struct encoder e = {L, out, 0};

    encode_value(&e, lua_absindex(L, index), raw);
    check_room(&e);
}

/* what scripts call */

static int
mark(lua_State *L, const char *raw)
{
    if (lua_isnoneornil(L, 1)) {
        lua_settop(L, 0);
        lua_newtable(L);
    }
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    remember(L, 1, slice_str(raw));
    return 1;
}

static int
make_array(lua_State *L)
{
    return mark(L, "[]");
}

static int
make_object(lua_State *L)
{
    return mark(L, "{}");
}

void
transformi_open_json(lua_State *L)
{
    lua_newtable(L);
    lua_newtable(L);
    lua_pushliteral(L, "k");
    lua_setfield(L, -2, "__mode");
    (void)lua_setmetatable(L, -2);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &records_key);
    lua_newtable(L);
    lua_pushcfunction(L, decimal_eq);
    lua_setfield(L, -2, "__eq");
    lua_pushliteral(L, "decimal");
    lua_setfield(L, -2, "__name");
    lua_rawsetp(L, LUA_REGISTRYINDEX, &decimal_key);
    lua_pushlightuserdata(L, NULL);
    lua_setglobal(L, "null");
    lua_pushcfunction(L, make_decimal);
    lua_setglobal(L, "decimal");
    lua_pushcfunction(L, make_array);
    lua_setglobal(L, "array");
    lua_pushcfunction(L, make_object);
    lua_setglobal(L, "object");
}
