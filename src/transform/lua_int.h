/* The scripts' virtual machine, inside src/transform/lua*.c only. */
#ifndef OX_TRANSFORM_LUA_INT_H
#define OX_TRANSFORM_LUA_INT_H

#include <lauxlib.h>
#include <lua.h>

#include "transform/transform_int.h"

/* Instructions between two looks at the budget. */
#define TRANSFORMI_HOOK_EVERY 1000

enum transformi_over {
    TRANSFORMI_WITHIN = 0,
    TRANSFORMI_OVER_BUDGET,
    TRANSFORMI_STOPPED,
};

#define TRANSFORMI_EVENT_KEYS 12
#define TRANSFORMI_POOL_CLASSES 16 /* of 16 bytes each */

/*
 * Small blocks for one virtual machine, by size, out of a piece of memory that stays: most of
 * what a script makes of an event is gone with the event. What does not fit is from malloc.
 */
struct transformi_pool {
    uint8_t *blocks; /* NULL: not yet */
    size_t   used;
    void    *free[TRANSFORMI_POOL_CLASSES + 1]; /* the first of a list */
};

/* As realloc: p may be NULL; size is not 0. NULL: no memory, and nothing has changed. */
void *transformi_pool_move(struct transformi_pool *, void *p, size_t old, size_t size);
void  transformi_pool_give(struct transformi_pool *, void *p, size_t old);

struct transformi_script_run {
    const struct transformi_script *script;
    lua_State                      *L;
    const atomic_bool              *stop;
    size_t                          memory; /* bytes that are allocated */
    struct transformi_pool          pool;
    const char                     *keys[TRANSFORMI_EVENT_KEYS]; /* Lua's own texts */
    uint64_t                        left;                        /* instructions of this call */
    enum transformi_over            over; /* for good: no pcall of a script gets past it */
    unsigned                        may;
    bool                            loaded;
    bool                            fresh; /* no stream has been here */
    uint64_t                        inputs;
    struct buf                      bytes;    /* of the outputs of this call */
    struct buf                      outputs;  /* struct transformi_result */
    struct buf                      origins;  /* uint64_t */
    struct buf                      absorbed; /* uint64_t: inputs that gave nothing, for finish */
    struct buf                      scratch, canon[2];
};

/* Takes n instructions from the budget; does not return where there are no more. */
void transformi_charge(lua_State *L, uint64_t n);
/* The same for n bytes that are gone through. */
void transformi_charge_bytes(lua_State *L, size_t n);

struct transformi_script_run *transformi_run_of(lua_State *L);

/* What a script sees; each leaves the library's functions in _G. */
void transformi_open_base(lua_State *L);
void transformi_open_string(lua_State *L);
void transformi_open_table(lua_State *L);

/* Pushes `f`, which takes from the budget by its arguments' sizes before it runs. */
void transformi_push_charged(lua_State *L, lua_CFunction f);
/* Takes functions of a library into the table on the top of the stack; names end with NULL. */
void transformi_take(lua_State *L, lua_CFunction open, const char *const *names, bool charged);

/* Pushes the value as text, never with an address. */
void transformi_push_text(lua_State *L, int index);

/* JSON. Pushes the value; raises an error of Lua where it is no JSON. */
void transformi_decode(lua_State *L, struct slice raw);
/* Pushes a number, or a decimal where Lua has none that is the same. */
void transformi_push_number(lua_State *L, struct slice raw);
/* Appends the value; where it is as it was in `raw` (may be empty), as that is spelled. */
void transformi_encode(lua_State *L, int index, struct slice raw, struct buf *out);
/* Makes null, decimal, array and object known, and what decode and encode need. */
void transformi_open_json(lua_State *L);
/* The spelling of a decimal; NULL where it is none. */
const char *transformi_decimal(lua_State *L, int index, size_t *len);

/* Pushes the keys of a table as a sequence: numbers in their order, then texts in theirs. */
lua_Integer transformi_push_keys(lua_State *L, int index);

#endif
