/* A user as JSON: in its stream, with what proves it, and for others, without. */
#include <stdio.h>
#include <string.h>

#include "base/base64.h"
#include "base/json.h"
#include "base/utf8.h"
#include "user/user_int.h"

static const struct {
    enum user_role role;
    const char    *name;
} roles[] = {{USER_ADMIN, "admin"}, {USER_OPS, "ops"}, {USER_READ, "read"}, {USER_WRITE, "write"}};

#define ROLES (sizeof roles / sizeof roles[0])

const char *
user_role_name(enum user_role role)
{
    for (size_t i = 0; i < ROLES; i++)
        if (roles[i].role == role)
            return roles[i].name;
    return "none";
}

static bool
add_role(struct slice name, unsigned *out)
{
    for (size_t i = 0; i < ROLES; i++) {
        if (!slice_is(name, roles[i].name))
            continue;
        *out |= roles[i].role;
        return true;
    }
    return false;
}

bool
user_roles_parse(struct slice text, unsigned *out)
{
    const char *p = text.data;
    size_t      from = 0;

    *out = 0;
    for (size_t i = 0; i <= text.len && text.len != 0; i++) {
        if (i < text.len && p[i] != ',')
            continue;
        if (!add_role(slice_of(p + from, i - from), out))
            return false;
        from = i + 1;
    }
    return true;
}

/* Letters, digits and what stands in addresses of mail: no colon, which ends it in Basic. */
bool
useri_name_is_good(struct slice name)
{
    const char *p = name.data;

    if (name.len == 0 || name.len > USER_NAME_MAX)
        return false;
    for (size_t i = 0; i < name.len; i++)
        if (!((p[i] >= 'a' && p[i] <= 'z') || (p[i] >= 'A' && p[i] <= 'Z') ||
              (p[i] >= '0' && p[i] <= '9') || (p[i] != '\0' && strchr("._@+-", p[i]) != NULL)))
            return false;
    return true;
}

/* Writing. */

static void
put_roles(const struct user *u, struct json_out *o)
{
    json_out_key(o, "roles");
    json_out_array(o);
    for (size_t i = 0; i < ROLES; i++)
        if (u->roles & roles[i].role)
            json_out_str(o, roles[i].name);
    json_out_array_end(o);
    json_out_key(o, "groups");
    json_out_array(o);
    for (unsigned i = 0; i < u->group_count; i++)
        json_out_str(o, u->groups[i]);
    json_out_array_end(o);
    json_out_key(o, "disabled");
    json_out_bool(o, u->disabled);
}

static void
put_bytes(struct json_out *o, const char *key, const uint8_t *bytes, size_t len)
{
    struct buf text = {0};

    base64_encode(&text, slice_of(bytes, len));
    json_out_key(o, key);
    json_out_string(o, buf_slice(&text));
    o->buf->failed = o->buf->failed || text.failed;
    buf_fini(&text);
}

static void
put_number(struct json_out *o, const char *key, int64_t v)
{
    json_out_key(o, key);
    json_out_i64(o, v);
}

static void
put_tokens(const struct user *u, struct json_out *o, bool secrets)
{
    json_out_key(o, "tokens");
    json_out_array(o);
    for (unsigned i = 0; i < u->token_count; i++) {
        const struct user_token *t = &u->tokens[i];

        json_out_object(o);
        json_out_key(o, "id");
        json_out_str(o, t->id);
        json_out_key(o, "label");
        json_out_str(o, t->label);
        put_number(o, "created_us", t->created_us);
        put_number(o, "expires_us", t->expires_us);
        if (secrets)
            put_bytes(o, "hash", t->hash, sizeof t->hash);
        json_out_object_end(o);
    }
    json_out_array_end(o);
}

static void
put_head(const struct user *u, struct json_out *o)
{
    json_out_object(o);
    json_out_key(o, "name");
    json_out_str(o, u->name);
    json_out_key(o, "full_name");
    json_out_str(o, u->full_name);
    put_roles(u, o);
    put_number(o, "changed_us", u->changed_us);
}

void
user_json(const struct user *u, struct json_out *o)
{
    put_head(u, o);
    put_tokens(u, o, false);
    json_out_object_end(o);
}

void
useri_write(const struct user *u, struct buf *out)
{
    const struct user_password *p = &u->password;
    struct json_out             o;

    json_out_init(&o, out);
    put_head(u, &o);
    if (p->there) {
        json_out_key(&o, "password");
        json_out_object(&o);
        json_out_key(&o, "kdf");
        json_out_str(&o, "scrypt");
        put_number(&o, "n", p->n);
        put_number(&o, "r", p->r);
        put_number(&o, "p", p->p);
        put_bytes(&o, "salt", p->salt, sizeof p->salt);
        put_bytes(&o, "hash", p->hash, sizeof p->hash);
        json_out_object_end(&o);
    }
    put_tokens(u, &o, true);
    json_out_object_end(&o);
}

/* Reading. */

static int
read_text(struct slice raw, const char *what, char *out, size_t room, struct err *err)
{
    struct buf text = {0};
    int        rc = 0;

    if (json_type(raw) != JSON_STRING)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "\"%s\": must be a string", what);
    TRY(json_string_decode(raw, &text, err));
    if (text.len >= room || (text.len != 0 && memchr(text.data, 0, text.len) != NULL))
        FAIL(err, E_INVALID, ERR_DATA, "\"%s\": has more than %zu bytes, or a NUL", what, room - 1);
    if (text.len != 0)
        memcpy(out, text.data, text.len);
    out[text.len] = '\0';
out:
    buf_fini(&text);
    return rc;
}

static bool
read_bytes(struct slice raw, uint8_t *out, size_t len)
{
    struct buf text = {0};
    size_t     got = 0;
    bool       ok = json_type(raw) == JSON_STRING && json_string_decode(raw, &text, NULL) == 0 &&
              base64_decode(text.data, text.len, &got) && got == len;

    if (ok)
        memcpy(out, text.data, len);
    buf_fini(&text);
    return ok;
}

int
user_roles_read(struct slice array, unsigned *out, struct err *err)
{
    struct json_iter it;
    struct slice     raw;
    char             name[16];
    int              rc = 0;

    *out = 0;
    TRY(json_array_iter(&it, array, err));
    while ((rc = json_iter_next(&it, NULL, &raw, err)) == 0) {
        TRY(read_text(raw, "roles", name, sizeof name, err));
        if (!add_role(slice_str(name), out))
            FAIL(err, E_INVALID, ERR_DATA, "\"roles\": are admin, ops, read and write");
    }
    rc = rc == E_END ? 0 : rc;
out:
    return rc;
}

int
useri_groups_read(struct slice array, struct user *u, struct err *err)
{
    struct json_iter it;
    struct slice     raw;
    int              rc = 0;

    u->group_count = 0;
    TRY(json_array_iter(&it, array, err));
    while ((rc = json_iter_next(&it, NULL, &raw, err)) == 0) {
        char *to = u->groups[u->group_count];

        if (u->group_count == USER_GROUPS_MAX)
            FAIL(err, E_LIMIT, ERR_DATA, "a user is in at most %d groups", USER_GROUPS_MAX);
        TRY(read_text(raw, "groups", to, sizeof u->groups[0], err));
        /* What begins so stands for roles. */
        if (to[0] == '\0' || to[0] == '$')
            FAIL(err, E_INVALID, ERR_DATA, "a group's name is empty or begins with '$'");
        u->group_count++;
    }
    rc = rc == E_END ? 0 : rc;
out:
    return rc;
}

static int
read_token(struct slice raw, struct user *u, struct err *err)
{
    struct json_field  f[5] = {{.name = "id", .required = true},
                               {.name = "label", .required = true},
                               {.name = "created_us", .required = true},
                               {.name = "expires_us", .required = true},
                               {.name = "hash", .required = true}};
    struct user_token *t = &u->tokens[u->token_count];
    int                rc = 0;

    if (u->token_count == USER_TOKENS_MAX)
        FAIL(err, E_LIMIT, ERR_DATA, "a user has at most %d tokens", USER_TOKENS_MAX);
    TRY(json_pick(raw, f, 5, JSON_PICK_ANY, err));
    TRY(read_text(f[0].value, "id", t->id, sizeof t->id, err));
    TRY(read_text(f[1].value, "label", t->label, sizeof t->label, err));
    if (!json_int64(f[2].value, &t->created_us) || !json_int64(f[3].value, &t->expires_us) ||
        !read_bytes(f[4].value, t->hash, sizeof t->hash))
        FAIL(err, E_DAMAGED, ERR_FATAL, "a token is not what was written");
    u->token_count++;
out:
    return rc;
}

static bool
read_u32(struct slice raw, uint32_t most, uint32_t *out)
{
    uint64_t v;

    if (!json_uint64(raw, &v) || v == 0 || v > most)
        return false;
    *out = (uint32_t)v;
    return true;
}

static int
read_password(struct slice raw, struct user_password *p, struct err *err)
{
    struct json_field f[6] = {
        {.name = "kdf", .required = true},  {.name = "n", .required = true},
        {.name = "r", .required = true},    {.name = "p", .required = true},
        {.name = "salt", .required = true}, {.name = "hash", .required = true}};
    int rc = 0;

    TRY(json_pick(raw, f, 6, JSON_PICK_ANY, err));
    if (!slice_is(f[0].value, "\"scrypt\"") || !read_u32(f[1].value, 1U << 20, &p->n) ||
        !read_u32(f[2].value, 64, &p->r) || !read_u32(f[3].value, 64, &p->p) ||
        !read_bytes(f[4].value, p->salt, sizeof p->salt) ||
        !read_bytes(f[5].value, p->hash, sizeof p->hash))
        FAIL(err, E_DAMAGED, ERR_FATAL, "a password's hash is not what was written");
    p->there = true;
out:
    return rc;
}

int
useri_read(struct slice json, struct user *u, struct err *err)
{
    struct json_field f[8] = {{.name = "name", .required = true},
                              {.name = "full_name", .required = true},
                              {.name = "roles", .required = true},
                              {.name = "groups", .required = true},
                              {.name = "disabled", .required = true},
                              {.name = "changed_us", .required = true},
                              {.name = "password"},
                              {.name = "tokens", .required = true}};
    struct json_iter  it;
    struct slice      raw;
    int               rc = 0;

    TRY(json_pick(json, f, 8, JSON_PICK_ANY, err));
    TRY(read_text(f[0].value, "name", u->name, sizeof u->name, err));
    TRY(read_text(f[1].value, "full_name", u->full_name, sizeof u->full_name, err));
    TRY(user_roles_read(f[2].value, &u->roles, err));
    TRY(useri_groups_read(f[3].value, u, err));
    if (!json_bool(f[4].value, &u->disabled) || !json_int64(f[5].value, &u->changed_us))
        FAIL(err, E_DAMAGED, ERR_FATAL, "a user is not what was written");
    if (f[6].value.data != NULL)
        TRY(read_password(f[6].value, &u->password, err));
    TRY(json_array_iter(&it, f[7].value, err));
    while ((rc = json_iter_next(&it, NULL, &raw, err)) == 0)
        TRY(read_token(raw, u, err));
    rc = rc == E_END ? 0 : rc;
out:
    return rc;
}
