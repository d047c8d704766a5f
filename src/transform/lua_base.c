/*
 * What a script finds in _G: nothing that reaches the system, tells a time, is
 * random, shows an address, or runs long without taking from the budget.
 */
#include <stdlib.h>

#include <lualib.h>

#include "transform/lua_int.h"

#define BYTES_PER_STEP 16

struct transformi_script_run *
transformi_run_of(lua_State *L)
{
    struct transformi_script_run *run;

    memcpy(&run, lua_getextraspace(L), sizeof(struct transformi_script_run *));
    return run;
}

void
transformi_charge(lua_State *L, uint64_t n)
{
    struct transformi_script_run *run = transformi_run_of(L);

    if (run->over == TRANSFORMI_WITHIN && run->left >= n && !atomic_load(run->stop)) {
        run->left -= n;
        return;
    }
    if (run->over == TRANSFORMI_WITHIN)
        run->over = run->left < n ? TRANSFORMI_OVER_BUDGET : TRANSFORMI_STOPPED;
    run->left = 0;
    luaL_error(L, run->over == TRANSFORMI_STOPPED ? "was stopped" : "too many instructions");
}

void
transformi_charge_bytes(lua_State *L, size_t n)
{
    transformi_charge(L, n / BYTES_PER_STEP + 1);
}

/* charged functions of the library */

static int
charged(lua_State *L)
{
    lua_CFunction f = lua_tocfunction(L, lua_upvalueindex(1));
    uint64_t      sum = 1;

    for (int i = 1; i <= lua_gettop(L); i++) {
        if (lua_type(L, i) == LUA_TSTRING)
            sum += lua_rawlen(L, i) / BYTES_PER_STEP;
        else if (lua_type(L, i) == LUA_TTABLE)
            sum += lua_rawlen(L, i);
    }
    transformi_charge(L, sum);
    return f(L); /* in this frame, so that its messages have their names and lines */
}

void
transformi_push_charged(lua_State *L, lua_CFunction f)
{
    lua_pushcfunction(L, f);
    lua_pushcclosure(L, charged, 1);
}

void
transformi_take(lua_State *L, lua_CFunction open, const char *const *names, bool charge)
{
    lua_pushcfunction(L, open);
    lua_call(L, 0, 1);
    for (; *names != NULL; names++) {
        (void)lua_getfield(L, -1, *names);
        if (charge && lua_tocfunction(L, -1) != NULL)
            transformi_push_charged(L, lua_tocfunction(L, -1));
        else
            lua_pushvalue(L, -1);
        lua_setfield(L, -4, *names);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

/* texts */

void
transformi_push_text(lua_State *L, int index)
{
    const char *decimal;
    size_t      len = 0;

    switch (lua_type(L, index)) {
    case LUA_TNUMBER:
        lua_pushvalue(L, index);
        (void)lua_tolstring(L, -1, NULL);
        break;
    case LUA_TSTRING:
        lua_pushvalue(L, index);
        break;
    case LUA_TBOOLEAN:
        lua_pushstring(L, lua_toboolean(L, index) ? "true" : "false");
        break;
    case LUA_TLIGHTUSERDATA:
        lua_pushliteral(L, "null");
        break;
    default:
        decimal = transformi_decimal(L, index, &len);
        if (decimal != NULL)
            (void)lua_pushlstring(L, decimal, len);
        else
            lua_pushstring(L, luaL_typename(L, index));
    }
}

static int
base_tostring(lua_State *L)
{
    luaL_checkany(L, 1);
    transformi_push_text(L, 1);
    return 1;
}

static int
base_tonumber(lua_State *L)
{
    size_t      len = 0;
    const char *decimal = lua_isnoneornil(L, 2) ? transformi_decimal(L, 1, &len) : NULL;

    if (decimal != NULL) {
        lua_pushnumber(L, strtod(decimal, NULL));
        return 1;
    }
    transformi_charge_bytes(L, lua_type(L, 1) == LUA_TSTRING ? lua_rawlen(L, 1) : 0);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, 1);
    return 1;
}

/* Calls of what may fail: the end of the budget is nobody's to catch. */

static int
after_pcall(lua_State *L, int status)
{
    if (status != LUA_OK && transformi_run_of(L)->over != TRANSFORMI_WITHIN)
        return lua_error(L);
    return status;
}

static int
base_pcall(lua_State *L)
{
    int status;

    luaL_checkany(L, 1);
    transformi_charge(L, 10);
    lua_pushboolean(L, 1);
    lua_insert(L, 1);
    status = after_pcall(L, lua_pcall(L, lua_gettop(L) - 2, LUA_MULTRET, 0));
    if (status == LUA_OK)
        return lua_gettop(L);
    lua_pushboolean(L, 0);
    lua_insert(L, -2);
    return 2;
}

/*
 * The handler is called after the failure, not within it: there the budget's
 * own hook would be off.
 */
static int
base_xpcall(lua_State *L)
{
    int n = lua_gettop(L), status;

    luaL_checktype(L, 2, LUA_TFUNCTION);
    transformi_charge(L, 10);
    lua_pushboolean(L, 1);
    lua_pushvalue(L, 1);
    lua_rotate(L, 3, 2); /* f, handler, true, f, arguments */
    status = after_pcall(L, lua_pcall(L, n - 2, LUA_MULTRET, 0));
    if (status == LUA_OK)
        return lua_gettop(L) - 2;
    lua_pushvalue(L, 2);
    lua_insert(L, -2);
    lua_call(L, 1, 1);
    lua_pushboolean(L, 0);
    lua_insert(L, -2);
    return 2;
}

/* tables in an order */

struct key {
    bool         text;
    bool         integer;
    lua_Integer  i;
    lua_Number   n;
    struct slice s;
};

static int
by_key(const void *a, const void *b)
{
    const struct key *x = a, *y = b;

    if (x->text != y->text)
        return x->text ? 1 : -1;
    if (x->text)
        return slice_cmp(x->s, y->s);
    if (x->integer && y->integer)
        return x->i < y->i ? -1 : x->i > y->i;
    return x->n < y->n ? -1 : x->n > y->n;
}

lua_Integer
transformi_push_keys(lua_State *L, int index)
{
    struct key *keys;
    size_t      count = 0, i = 0, steps = 1;

    index = lua_absindex(L, index);
    lua_pushnil(L);
    while (lua_next(L, index) != 0) {
        lua_pop(L, 1);
        if (lua_type(L, -1) != LUA_TSTRING && lua_type(L, -1) != LUA_TNUMBER)
            luaL_error(L, "a table with a %s as a key has no order", luaL_typename(L, -1));
        count++;
    }
    for (i = count; i > 1; i /= 2)
        steps++;
    transformi_charge(L, count * steps);
    keys = lua_newuserdatauv(L, (count + 1) * sizeof *keys, 0);
    lua_pushnil(L);
    for (i = 0; lua_next(L, index) != 0; i++) {
        lua_pop(L, 1);
        memset(&keys[i], 0, sizeof *keys);
        keys[i].text = lua_type(L, -1) == LUA_TSTRING;
        keys[i].integer = lua_isinteger(L, -1) != 0;
        if (keys[i].text) {
            keys[i].s.data = lua_tolstring(L, -1, &keys[i].s.len);
        } else {
            keys[i].i = lua_tointeger(L, -1);
            keys[i].n = lua_tonumber(L, -1);
        }
    }
    qsort(keys, count, sizeof *keys, by_key);
    lua_createtable(L, (int)(count < 1000000 ? count : 1000000), 0);
    for (i = 0; i < count; i++) {
        if (keys[i].text)
            (void)lua_pushlstring(L, keys[i].s.data, keys[i].s.len);
        else if (keys[i].integer)
            lua_pushinteger(L, keys[i].i);
        else
            lua_pushnumber(L, keys[i].n);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_remove(L, -2);
    return (lua_Integer)count;
}

/* Upvalues: the table, its keys, how far. Keys that were set to nil meanwhile are passed over. */
static int
pairs_next(lua_State *L)
{
    lua_Integer i = lua_tointeger(L, lua_upvalueindex(3));

    for (;;) {
        if (lua_rawgeti(L, lua_upvalueindex(2), ++i) == LUA_TNIL)
            return 1;
        lua_pushvalue(L, -1);
        if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL)
            break;
        lua_pop(L, 2);
        transformi_charge(L, 1);
    }
    lua_pushinteger(L, i);
    lua_replace(L, lua_upvalueindex(3));
    return 2;
}

static int
base_pairs(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    lua_pushvalue(L, 1);
    (void)transformi_push_keys(L, 1);
    lua_pushinteger(L, 0);
    lua_pushcclosure(L, pairs_next, 3);
    lua_pushvalue(L, 1);
    lua_pushnil(L);
    return 3;
}

/* next(t, key): in the order of pairs, by looking at all keys each time. */
static int
base_next(lua_State *L)
{
    lua_Integer n, i = 1;

    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 2);
    n = transformi_push_keys(L, 1);
    for (; !lua_isnil(L, 2) && i <= n; i++) {
        bool found;

        lua_rawgeti(L, 3, i);
        found = lua_rawequal(L, -1, 2) != 0;
        lua_pop(L, 1);
        if (found) {
            i++;
            break;
        }
    }
    if (lua_rawgeti(L, 3, i) == LUA_TNIL)
        return 1;
    lua_pushvalue(L, -1);
    (void)lua_rawget(L, 1);
    return 2;
}

void
transformi_open_base(lua_State *L)
{
    static const char *const base[] = {"assert",   "error",    "ipairs", "rawget",
                                       "rawlen",   "rawset",   "select", "type",
                                       "_VERSION", "tonumber", NULL};
    static const char *const math[] = {"abs",        "ceil", "floor",      "fmod", "huge", "max",
                                       "maxinteger", "min",  "mininteger", "modf", "pi",   "sqrt",
                                       "tointeger",  "type", "ult",        NULL};
    static const char *const utf8[] = {"char", "charpattern", "codepoint", "codes",
                                       "len",  "offset",      NULL};
    static const luaL_Reg    own[] = {{"next", base_next},     {"pairs", base_pairs},
                                      {"pcall", base_pcall},   {"tostring", base_tostring},
                                      {"xpcall", base_xpcall}, {NULL, NULL}};

    lua_newtable(L);
    transformi_take(L, luaopen_base, base, false); /* what it leaves in its own _G is thrown away */
    (void)lua_getfield(L, -1, "tonumber");
    lua_pushcclosure(L, base_tonumber, 1);
    lua_setfield(L, -2, "tonumber");
    luaL_setfuncs(L, own, 0);
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "_G");
    lua_rawseti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
    lua_newtable(L);
    transformi_take(L, luaopen_math, math, false);
    lua_setglobal(L, "math");
    lua_newtable(L);
    transformi_take(L, luaopen_utf8, utf8, true);
    lua_setglobal(L, "utf8");
}
