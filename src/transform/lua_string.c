/*
 * The string library: patterns with a matcher whose every step is taken from
 * the budget (the one of Lua can run for years within one call), and the rest
 * with what it costs.
 */
#include <ctype.h>

#include <lualib.h>

#include "transform/lua_int.h"

#define CAPTURES_MAX 32
#define DEPTH_MAX 200 /* of the matcher's calls within one another */
#define CAPTURE_OPEN (-1)
#define CAPTURE_PLACE (-2)

struct capture {
    const char *at;
    ptrdiff_t   len; /* or CAPTURE_OPEN, CAPTURE_PLACE */
};

struct matcher {
    lua_State     *L;
    const char    *text, *text_end, *pattern_end;
    int            depth, count;
    struct capture captures[CAPTURES_MAX];
};

static const char *match(struct matcher *m, const char *s, const char *p);

static void
step(struct matcher *m)
{
    transformi_charge(m->L, 1);
}

/* one character */

static bool
in_class(unsigned char c, char letter)
{
    int yes;

    switch (tolower((unsigned char)letter)) {
    case 'a':
        yes = isalpha(c);
        break;
    case 'c':
        yes = iscntrl(c);
        break;
    case 'd':
        yes = isdigit(c);
        break;
    case 'g':
        yes = isgraph(c);
        break;
    case 'l':
        yes = islower(c);
        break;
    case 'p':
        yes = ispunct(c);
        break;
    case 's':
        yes = isspace(c);
        break;
    case 'u':
        yes = isupper(c);
        break;
    case 'w':
        yes = isalnum(c);
        break;
    case 'x':
        yes = isxdigit(c);
        break;
    default: /* any other character stands for itself */
        return (unsigned char)letter == c;
    }
    return (yes != 0) != (isupper((unsigned char)letter) != 0);
}

/* After the item at p: a character, %x, or a set. */
static const char *
item_end(struct matcher *m, const char *p)
{
    const char *start = p;

    if (*p == '%') {
        if (p + 1 == m->pattern_end)
            luaL_error(m->L, "a pattern that ends with '%%'");
        return p + 2;
    }
    if (*p != '[')
        return p + 1;
    p++;
    if (p < m->pattern_end && *p == '^')
        p++;
    for (start = p; p == start || *p != ']'; p++) { /* a ']' that comes first is one of the set */
        if (p < m->pattern_end && *p == '%')
            p++;
        if (p >= m->pattern_end || p + 1 >= m->pattern_end)
            luaL_error(m->L, "a pattern with '[' without ']'");
    }
    return p + 1;
}

/* p is on '[', end after its ']'. */
static bool
in_set(unsigned char c, const char *p, const char *end)
{
    bool wanted = true, found = false;

    end--;
    p++;
    if (*p == '^') {
        wanted = false;
        p++;
    }
    while (p < end && !found) {
        if (*p == '%' && p + 1 < end) {
            found = in_class(c, p[1]);
            p += 2;
        } else if (p + 2 < end && p[1] == '-') {
            found = (unsigned char)p[0] <= c && c <= (unsigned char)p[2];
            p += 3;
        } else {
            found = (unsigned char)*p == c;
            p++;
        }
    }
    return found == wanted;
}

static bool
fits(struct matcher *m, const char *s, const char *p, const char *end)
{
    unsigned char c;

    transformi_charge(m->L, 1 + (uint64_t)(end - p) / 8);
    if (s >= m->text_end)
        return false;
    c = (unsigned char)*s;
    switch (*p) {
    case '.':
        return true;
    case '%':
        return in_class(c, p[1]);
    case '[':
        return in_set(c, p, end);
    default:
        return (unsigned char)*p == c;
    }
}

/* items that repeat */

static const char *
longest(struct matcher *m, const char *s, const char *p, const char *end, ptrdiff_t least)
{
    ptrdiff_t n = 0;

    while (fits(m, s + n, p, end))
        n++;
    for (; n >= least; n--) {
        const char *rest = match(m, s + n, end + 1);

        if (rest != NULL)
            return rest;
    }
    return NULL;
}

static const char *
shortest(struct matcher *m, const char *s, const char *p, const char *end)
{
    for (;;) {
        const char *rest = match(m, s, end + 1);

        if (rest != NULL)
            return rest;
        if (!fits(m, s, p, end))
            return NULL;
        s++;
    }
}

/* captures */

static const char *
open_capture(struct matcher *m, const char *s, const char *p, ptrdiff_t len)
{
    const char *rest;

    if (m->count == CAPTURES_MAX)
        luaL_error(m->L, "a pattern with more than %d captures", CAPTURES_MAX);
    m->captures[m->count++] = (struct capture){s, len};
    rest = match(m, s, p);
    if (rest == NULL)
        m->count--;
    return rest;
}

static const char *
close_capture(struct matcher *m, const char *s, const char *p)
{
    int         i = m->count - 1;
    const char *rest;

    while (i >= 0 && m->captures[i].len != CAPTURE_OPEN)
        i--;
    if (i < 0)
        luaL_error(m->L, "a pattern with ')' without '('");
    m->captures[i].len = s - m->captures[i].at;
    rest = match(m, s, p);
    if (rest == NULL)
        m->captures[i].len = CAPTURE_OPEN;
    return rest;
}

/* %1 to %9: what a capture matched, once more. */
static const char *
again(struct matcher *m, const char *s, char which)
{
    int            i = which - '1';
    struct capture c;

    if (i < 0 || i >= m->count || m->captures[i].len == CAPTURE_OPEN)
        luaL_error(m->L, "a pattern with an unknown capture %%%c", which);
    c = m->captures[i];
    if (c.len < 0)
        return NULL;
    transformi_charge_bytes(m->L, (size_t)c.len);
    if (m->text_end - s < c.len || memcmp(c.at, s, (size_t)c.len) != 0)
        return NULL;
    return s + c.len;
}

/* %bxy: from an x to the y that closes it. */
static const char *
balanced(struct matcher *m, const char *s, const char *p)
{
    int open = 1;

    if (p + 1 >= m->pattern_end)
        luaL_error(m->L, "a pattern with %%b without two characters");
    if (s >= m->text_end || *s != p[0])
        return NULL;
    while (++s < m->text_end) {
        step(m);
        if (*s == p[1]) {
            if (--open == 0)
                return s + 1;
        } else if (*s == p[0]) {
            open++;
        }
    }
    return NULL;
}

/* %f[set]: where the set begins. */
static bool
frontier(struct matcher *m, const char *s, const char *p, const char *end)
{
    unsigned char last = s == m->text ? 0 : (unsigned char)s[-1];
    unsigned char now = s == m->text_end ? 0 : (unsigned char)*s;

    step(m);
    return !in_set(last, p, end) && in_set(now, p, end);
}

/* What begins with % and is no class. NULL: no match; *p goes on after it. */
static const char *
special(struct matcher *m, const char *s, const char **p)
{
    const char *at = *p + 2, *end;

    if ((*p)[1] == 'b') {
        *p += 4;
        return balanced(m, s, at);
    }
    if ((*p)[1] == 'f') {
        if (at >= m->pattern_end || *at != '[')
            luaL_error(m->L, "a pattern with %%f without a set");
        end = item_end(m, at);
        *p = end;
        return frontier(m, s, at, end) ? s : NULL;
    }
    *p += 2;
    return again(m, s, at[-1]);
}

static bool
is_special(const struct matcher *m, const char *p)
{
    return *p == '%' && p + 1 < m->pattern_end &&
           (p[1] == 'b' || p[1] == 'f' || isdigit((unsigned char)p[1]));
}

/* One character class and what follows it. False: *s is the answer. */
static bool
match_item(struct matcher *m, const char **s, const char **p)
{
    const char *end = item_end(m, *p), *rest;
    char        repeat = end < m->pattern_end ? *end : '\0';

    switch (repeat) {
    case '*':
    case '+':
        *s = longest(m, *s, *p, end, repeat == '+');
        return false;
    case '-':
        *s = shortest(m, *s, *p, end);
        return false;
    case '?':
        if (fits(m, *s, *p, end)) {
            rest = match(m, *s + 1, end + 1);
            if (rest != NULL) {
                *s = rest;
                return false;
            }
        }
        *p = end + 1;
        return true;
    default:
        if (!fits(m, *s, *p, end)) {
            *s = NULL;
            return false;
        }
        (*s)++;
        *p = end;
        return true;
    }
}

/* After what matches the pattern from p on, at s; NULL: it does not. */
static const char *
match(struct matcher *m, const char *s, const char *p)
{
    if (++m->depth > DEPTH_MAX)
        luaL_error(m->L, "a pattern that is too complex");
    while (s != NULL && p < m->pattern_end) {
        step(m);
        if (*p == '(') {
            bool place = p + 1 < m->pattern_end && p[1] == ')';

            s = open_capture(m, s, p + (place ? 2 : 1), place ? CAPTURE_PLACE : CAPTURE_OPEN);
            break;
        }
        if (*p == ')') {
            s = close_capture(m, s, p + 1);
            break;
        }
        if (*p == '$' && p + 1 == m->pattern_end) {
            s = s == m->text_end ? s : NULL;
            break;
        }
        if (is_special(m, p)) {
            s = special(m, s, &p);
            continue;
        }
        if (!match_item(m, &s, &p))
            break;
    }
    m->depth--;
    return s;
}

static void
matcher_init(struct matcher *m, lua_State *L, const char *text, size_t len, const char *pattern_end)
{
    memset(m, 0, sizeof *m);
    m->L = L;
    m->text = text;
    m->text_end = text + len;
    m->pattern_end = pattern_end;
}

static const char *
try_at(struct matcher *m, const char *s, const char *p)
{
    m->depth = m->count = 0;
    return match(m, s, p);
}

/* Capture i, or, where there is none at all, the whole of what matched. */
static void
push_capture(struct matcher *m, int i, const char *from, const char *to)
{
    if (i >= m->count) {
        if (i != 0)
            luaL_error(m->L, "an unknown capture %%%d", i + 1);
        (void)lua_pushlstring(m->L, from, (size_t)(to - from));
    } else if (m->captures[i].len == CAPTURE_PLACE) {
        lua_pushinteger(m->L, m->captures[i].at - m->text + 1);
    } else if (m->captures[i].len < 0) {
        luaL_error(m->L, "a pattern with '(' without ')'");
    } else {
        (void)lua_pushlstring(m->L, m->captures[i].at, (size_t)m->captures[i].len);
    }
}

static int
push_captures(struct matcher *m, const char *from, const char *to)
{
    int n = m->count == 0 && from != NULL ? 1 : m->count;

    luaL_checkstack(m->L, n, "captures");
    for (int i = 0; i < n; i++)
        push_capture(m, i, from, to);
    return n;
}

/* find, match */

static size_t
start_of(lua_State *L, int index, size_t len)
{
    lua_Integer i = luaL_optinteger(L, index, 1);

    if (i > 0)
        return (lua_Unsigned)i - 1 > len ? SIZE_MAX : (size_t)i - 1;
    if (i == 0 || i < -(lua_Integer)len)
        return 0;
    return len - (size_t)-i;
}

static bool
is_plain(const char *p, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (strchr("^$*+?.([%-", p[i]) != NULL && p[i] != '\0')
            return false;
    }
    return true;
}

static int
find_plain(lua_State *L, const char *s, size_t len, const char *p, size_t plen, size_t from)
{
    const char *at;

    transformi_charge_bytes(L, len + plen);
    at = plen == 0 ? s + from : memmem(s + from, len - from, p, plen);
    if (at == NULL) {
        lua_pushnil(L);
        return 1;
    }
    lua_pushinteger(L, at - s + 1);
    lua_pushinteger(L, at - s + (lua_Integer)plen);
    return 2;
}

static int
find_or_match(lua_State *L, bool find)
{
    size_t         len, plen, from;
    const char    *s = luaL_checklstring(L, 1, &len), *p = luaL_checklstring(L, 2, &plen);
    const char    *at, *end, *pattern_end = p + plen;
    bool           anchored;
    struct matcher m;

    from = start_of(L, 3, len);
    if (from > len) {
        lua_pushnil(L);
        return 1;
    }
    if (find && (lua_toboolean(L, 4) || is_plain(p, plen)))
        return find_plain(L, s, len, p, plen, from);
    anchored = plen > 0 && *p == '^';
    p += anchored;
    matcher_init(&m, L, s, len, pattern_end);
    for (at = s + from; at <= m.text_end; at++) {
        end = try_at(&m, at, p);
        if (end != NULL && !find)
            return push_captures(&m, at, end);
        if (end != NULL) {
            lua_pushinteger(L, at - s + 1);
            lua_pushinteger(L, end - s);
            return push_captures(&m, NULL, NULL) + 2;
        }
        if (anchored)
            break;
    }
    lua_pushnil(L);
    return 1;
}

static int
string_find(lua_State *L)
{
    return find_or_match(L, true);
}

static int
string_match(lua_State *L)
{
    return find_or_match(L, false);
}

/* Upvalues: the text, the pattern, where to go on, where the last match ended. */
static int
gmatch_next(lua_State *L)
{
    size_t         len, plen;
    const char    *s = lua_tolstring(L, lua_upvalueindex(1), &len);
    const char    *p = lua_tolstring(L, lua_upvalueindex(2), &plen);
    lua_Integer    from = lua_tointeger(L, lua_upvalueindex(3));
    lua_Integer    last = lua_tointeger(L, lua_upvalueindex(4));
    struct matcher m;

    matcher_init(&m, L, s, len, p + plen);
    for (const char *at = s + from; at <= m.text_end; at++) {
        const char *end = try_at(&m, at, p);

        if (end == NULL || end - s == last)
            continue;
        lua_pushinteger(L, end - s);
        lua_copy(L, -1, lua_upvalueindex(3));
        lua_replace(L, lua_upvalueindex(4));
        return push_captures(&m, at, end);
    }
    return 0;
}

static int
string_gmatch(lua_State *L)
{
    size_t len, from;

    (void)luaL_checklstring(L, 1, &len);
    (void)luaL_checkstring(L, 2);
    from = start_of(L, 3, len);
    lua_settop(L, 2);
    lua_pushinteger(L, (lua_Integer)(from > len ? len + 1 : from));
    lua_pushinteger(L, -1);
    lua_pushcclosure(L, gmatch_next, 4);
    return 1;
}

/* gsub */

/* The replacement's text: %1 to %9, %0 and %%. */
static void
add_text(struct matcher *m, luaL_Buffer *b, const char *from, const char *to)
{
    size_t      len, piece;
    const char *r = lua_tolstring(m->L, 3, &len), *text;

    transformi_charge_bytes(m->L, len);
    for (const char *end = r + len; r < end; r++) {
        if (*r != '%') {
            luaL_addchar(b, *r);
            continue;
        }
        r++;
        if (r < end && *r == '%') {
            luaL_addchar(b, '%');
        } else if (r < end && *r == '0') {
            luaL_addlstring(b, from, (size_t)(to - from));
        } else if (r < end && isdigit((unsigned char)*r)) {
            push_capture(m, *r - '1', from, to);
            text = lua_tolstring(m->L, -1, &piece);
            (void)text;
            luaL_addvalue(b);
        } else {
            luaL_error(m->L, "a replacement with '%%' and no digit");
        }
    }
}

static void
add_replacement(struct matcher *m, luaL_Buffer *b, const char *from, const char *to)
{
    lua_State *L = m->L;
    int        n;

    switch (lua_type(L, 3)) {
    case LUA_TFUNCTION:
        lua_pushvalue(L, 3);
        n = push_captures(m, from, to);
        lua_call(L, n, 1);
        break;
    case LUA_TTABLE:
        push_capture(m, 0, from, to);
        (void)lua_gettable(L, 3);
        break;
    default:
        add_text(m, b, from, to);
        return;
    }
    if (!lua_toboolean(L, -1)) {
        lua_pop(L, 1);
        luaL_addlstring(b, from, (size_t)(to - from));
    } else if (lua_isstring(L, -1)) {
        luaL_addvalue(b);
    } else {
        luaL_error(L, "a replacement that is a %s", luaL_typename(L, -1));
    }
}

static int
string_gsub(lua_State *L)
{
    size_t         len, plen;
    const char    *s = luaL_checklstring(L, 1, &len), *p = luaL_checklstring(L, 2, &plen);
    const char    *at = s, *last = NULL, *pattern_end = p + plen;
    int            type = lua_type(L, 3);
    lua_Integer    max = luaL_optinteger(L, 4, (lua_Integer)len + 1), count = 0;
    bool           anchored = plen > 0 && *p == '^';
    struct matcher m;
    luaL_Buffer    b;

    luaL_argexpected(L,
                     type == LUA_TNUMBER || type == LUA_TSTRING || type == LUA_TTABLE ||
                         type == LUA_TFUNCTION,
                     3, "string/function/table");
    p += anchored;
    matcher_init(&m, L, s, len, pattern_end);
    luaL_buffinit(L, &b);
    while (count < max) {
        const char *end = try_at(&m, at, p);

        if (end != NULL && end != last) {
            count++;
            add_replacement(&m, &b, at, end);
            at = last = end;
        } else if (at < m.text_end) {
            luaL_addchar(&b, *at++);
        } else {
            break;
        }
        if (anchored)
            break;
    }
    if (at < m.text_end)
        luaL_addlstring(&b, at, (size_t)(m.text_end - at));
    luaL_pushresult(&b);
    lua_pushinteger(L, count);
    return 2;
}

/* format: without %p, and with texts for what would show an address */

static int
string_format(lua_State *L)
{
    size_t      len, sum = 0;
    const char *f = luaL_checklstring(L, 1, &len);

    for (size_t i = 0; i < len; i++) {
        if (f[i] != '%')
            continue;
        for (i++; i < len && (isdigit((unsigned char)f[i]) || strchr("-+ #.", f[i]) != NULL); i++)
            ;
        if (i < len && f[i] == 'p')
            return luaL_error(L, "format: %%p would show an address");
    }
    for (int i = 2; i <= lua_gettop(L); i++) {
        int type = lua_type(L, i);

        if (type == LUA_TSTRING)
            sum += lua_rawlen(L, i);
        if (type == LUA_TTABLE || type == LUA_TFUNCTION || type == LUA_TUSERDATA ||
            type == LUA_TLIGHTUSERDATA) {
            transformi_push_text(L, i);
            lua_replace(L, i);
        }
    }
    transformi_charge_bytes(L, len + sum);
    return lua_tocfunction(L, lua_upvalueindex(1))(L);
}

void
transformi_open_string(lua_State *L)
{
    /* What they cost is what they make, which the allocator takes from the budget. */
    static const char *const names[] = {"char",    "len", "lower", "rep",
                                        "reverse", "sub", "upper", NULL};
    static const char *const long_names[] = {"byte", NULL};
    static const luaL_Reg    own[] = {{"find", string_find},
                                      {"match", string_match},
                                      {"gmatch", string_gmatch},
                                      {"gsub", string_gsub},
                                      {NULL, NULL}};

    lua_newtable(L);
    transformi_take(L, luaopen_string, names, false);
    transformi_take(L, luaopen_string, long_names, true);
    lua_pushcfunction(L, luaopen_string);
    lua_call(L, 0, 1);
    (void)lua_getfield(L, -1, "format");
    lua_pushcclosure(L, string_format, 1);
    lua_setfield(L, -3, "format");
    lua_pop(L, 1);
    luaL_setfuncs(L, own, 0);
    /* ("x"):f() reaches the same functions, and no others. */
    lua_pushliteral(L, "");
    (void)lua_getmetatable(L, -1);
    lua_pushvalue(L, -3);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 2);
    lua_setglobal(L, "string");
}
