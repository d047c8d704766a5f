/*
 * The table library: a stable sort (the one of Lua takes its pivots from the
 * clock), and the rest with what it costs.
 */
#include <lualib.h>

#include "transform/lua_int.h"

/* Whether the value at a is before the one at b; index 2 may be a function. */
static bool
before(lua_State *L, int a, int b)
{
    bool yes;

    if (lua_isnil(L, 2))
        return lua_compare(L, a, b, LUA_OPLT) != 0;
    lua_pushvalue(L, 2);
    lua_pushvalue(L, a < 0 ? a - 1 : a);
    lua_pushvalue(L, b < 0 ? b - 2 : b);
    lua_call(L, 2, 1);
    yes = lua_toboolean(L, -1) != 0;
    lua_pop(L, 1);
    return yes;
}

/* Two runs, [from, middle) and [middle, to), of the table at `in` into the one at `out`. */
static void
merge(lua_State *L, int in, int out, const lua_Integer at[3])
{
    lua_Integer a = at[0], b = at[1];

    for (lua_Integer i = at[0]; i < at[2]; i++) {
        bool right = a == at[1];

        if (a < at[1] && b < at[2]) {
            lua_rawgeti(L, in, b);
            lua_rawgeti(L, in, a);
            right = before(L, -2, -1);
            lua_pop(L, 2);
        }
        lua_rawgeti(L, in, right ? b++ : a++);
        lua_rawseti(L, out, i);
    }
}

static int
table_sort(lua_State *L)
{
    lua_Integer n, width;
    int         in = 3, out = 4;

    luaL_checktype(L, 1, LUA_TTABLE);
    if (!lua_isnoneornil(L, 2))
        luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    n = (lua_Integer)lua_rawlen(L, 1);
    lua_newtable(L);
    lua_newtable(L);
    transformi_charge(L, (uint64_t)n * 2);
    for (lua_Integer i = 1; i <= n; i++) {
        lua_rawgeti(L, 1, i);
        lua_rawseti(L, in, i);
    }
    for (width = 1; width < n; width *= 2) {
        transformi_charge(L, (uint64_t)n);
        for (lua_Integer from = 1; from <= n; from += 2 * width) {
            lua_Integer at[3] = {from, from + width, from + 2 * width};

            at[1] = at[1] > n + 1 ? n + 1 : at[1];
            at[2] = at[2] > n + 1 ? n + 1 : at[2];
            merge(L, in, out, at);
        }
        in = 7 - in; /* 3 and 4 take turns */
        out = 7 - out;
    }
    for (lua_Integer i = 1; i <= n; i++) {
        lua_rawgeti(L, in, i);
        lua_rawseti(L, 1, i);
    }
    return 0;
}

/* Upvalue 1: the library's own function. */
static int
go_on(lua_State *L)
{
    return lua_tocfunction(L, lua_upvalueindex(1))(L);
}

static void
charge_range(lua_State *L, lua_Integer from, lua_Integer to)
{
    if (to >= from)
        transformi_charge(L, (uint64_t)to - (uint64_t)from + 1);
}

/* insert(t, value) is cheap; with a place all behind it moves. So does remove. */
static int
table_shift(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    if (lua_gettop(L) == 3 || (lua_gettop(L) == 2 && lua_toboolean(L, lua_upvalueindex(2))))
        charge_range(L, luaL_checkinteger(L, 2), (lua_Integer)lua_rawlen(L, 1));
    return go_on(L);
}

static int
table_unpack(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    charge_range(L, luaL_optinteger(L, 2, 1), luaL_optinteger(L, 3, (lua_Integer)lua_rawlen(L, 1)));
    return go_on(L);
}

static int
table_move(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    charge_range(L, luaL_checkinteger(L, 2), luaL_checkinteger(L, 3));
    return go_on(L);
}

/* The library is at the top, the new table below it. */
static void
take_with(lua_State *L, const char *name, lua_CFunction f, bool flag)
{
    (void)lua_getfield(L, -1, name);
    lua_pushboolean(L, flag);
    lua_pushcclosure(L, f, 2);
    lua_setfield(L, -3, name);
}

void
transformi_open_table(lua_State *L)
{
    static const char *const names[] = {"concat", "pack", NULL};

    lua_newtable(L);
    transformi_take(L, luaopen_table, names, true);
    lua_pushcfunction(L, luaopen_table);
    lua_call(L, 0, 1);
    take_with(L, "insert", table_shift, false);
    take_with(L, "remove", table_shift, true);
    take_with(L, "unpack", table_unpack, false);
    take_with(L, "move", table_move, false);
    lua_pop(L, 1);
    lua_pushcfunction(L, table_sort);
    lua_setfield(L, -2, "sort");
    lua_setglobal(L, "table");
}
