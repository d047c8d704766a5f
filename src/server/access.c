/*
 * What somebody may do. First what the route or the method asks for (access_table.c); then, of a
 * stream: its $acl, the permissions of its category, what is preset in $settings, the role. Streams
 * of the system are the admins', as far as no $acl and no preset says otherwise.
 *
 * What $acl and $settings say is remembered for a second, and forgotten when this server writes
 * metadata or settings.
 */
#include "server/access_int.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/must.h"
#include "log/log.h"

#define ACLS 4096u
#define ACL_KEPT_MAX 4096 /* bytes of one that is remembered */
#define ACL_MS 1000
#define SETTINGS_MAX 65536 /* bytes */

static const char *const right_keys[ACCESS_RIGHTS] = {"$r", "$w", "$d", "$mr", "$mw"};
static const char *const right_words[ACCESS_RIGHTS] = {
    "read", "write", "delete", "read the metadata of", "write the metadata of"};

struct acl {
    uint64_t generation, at_ms;
    uint16_t len;
    bool     closed; /* cannot be read: the admins' */
    char     name[LOG_NAME_MAX];
    char    *json; /* NULL: none */
};

/* The last event of ACCESS_SETTINGS. */
struct settings {
    uint64_t   generation, at_ms;
    bool       known, closed; /* closed: cannot be read */
    struct buf json;          /* empty: none */
};

struct permissions {
    struct message            message; /* first: from who set them to the loop */
    struct server            *server;
    struct server_permission *rules; /* their texts follow */
    uint32_t                  count;
};

struct access {
    struct acl          acls[ACLS];
    struct buf          large; /* of the stream that was last asked about */
    struct settings     settings;
    uint64_t            generation;
    struct permissions *permissions; /* NULL: none */
};

static struct access *
access_of(struct server *s)
{
    if (s->access == NULL)
        s->access = calloc(1, sizeof *s->access);
    return s->access;
}

static void
permissions_free(struct permissions *p)
{
    if (p == NULL)
        return;
    free(p->rules);
    free(p);
}

void
serveri_access_free(struct server *s)
{
    if (s->access == NULL)
        return;
    for (unsigned i = 0; i < ACLS; i++)
        free(s->access->acls[i].json);
    buf_fini(&s->access->large);
    buf_fini(&s->access->settings.json);
    permissions_free(s->access->permissions);
    free(s->access);
    s->access = NULL;
}

/* The permissions of categories. */

static void
on_set(struct message *m)
{
    struct permissions *p = (struct permissions *)m;
    struct access      *a = access_of(p->server);

    if (a == NULL) { /* without them more would be allowed */
        p->server->auth_mode = SERVER_AUTH_CLOSED;
        permissions_free(p);
        return;
    }
    permissions_free(a->permissions);
    a->permissions = p;
}

static struct slice
move_text(char **to, struct slice text)
{
    struct slice moved = slice_of(*to, text.len);

    if (text.len != 0)
        memcpy(*to, text.data, text.len);
    *to += text.len;
    return moved;
}

int
server_set_permissions(struct server *s, const struct server_permission *list, uint32_t count,
                       struct err *err)
{
    struct permissions *p = calloc(1, sizeof *p);
    size_t              bytes = 0;
    char               *text;

    for (uint32_t i = 0; i < count; i++)
        bytes += list[i].category.len + list[i].read.len + list[i].write.len;
    if (p != NULL)
        p->rules = malloc(count * sizeof *p->rules + bytes + 1);
    if (p == NULL || p->rules == NULL) {
        free(p);
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "no memory for the permissions");
    }
    text = (char *)(p->rules + count);
    for (uint32_t i = 0; i < count; i++) {
        p->rules[i] = list[i];
        p->rules[i].category = move_text(&text, list[i].category);
        p->rules[i].read = move_text(&text, list[i].read);
        p->rules[i].write = move_text(&text, list[i].write);
    }
    p->count = count;
    p->server = s;
    p->message.fn = on_set;
    serveri_post(s, &p->message);
    return 0;
}

static const struct server_permission *
rule_of(const struct server *s, struct slice category)
{
    const struct permissions *p = s->access == NULL ? NULL : s->access->permissions;

    for (uint32_t i = 0; p != NULL && i < p->count; i++)
        if (slice_eq(p->rules[i].category, category))
            return &p->rules[i];
    return NULL;
}

/* Names of users and groups, and words for roles. */
static bool
is_named(const struct user *who, struct slice name)
{
    if (slice_is(name, "$all") || slice_is(name, user_name(who)))
        return true;
    if (slice_is(name, "$admins"))
        return user_is(who, USER_ADMIN);
    if (slice_is(name, "$ops"))
        return user_is(who, USER_OPS);
    for (unsigned i = 0; i < user_group_count(who); i++)
        if (slice_eq(name, user_group(who, i)))
            return true;
    return false;
}

/* Names, each with a NUL behind it. */
static bool
is_in_list(const struct user *who, struct slice list)
{
    const char *p = list.data;

    for (size_t at = 0; at < list.len; at += strlen(p + at) + 1)
        if (is_named(who, slice_str(p + at)))
            return true;
    return false;
}

/* $acl. */

static void
forget(struct acl *k)
{
    free(k->json);
    k->json = NULL;
    k->len = 0;
    k->closed = false;
}

/* Valid as long as *it, which the caller closes. E_END, E_NOTFOUND: there is none. */
static int
last_event(struct server *s, struct slice stream, struct log_iter **it, struct log_event *out)
{
    struct log_read read = {.stream = stream, .from = UINT64_MAX, .backwards = true};
    int             rc;

    *it = NULL;
    rc = log_iter_open(s->log, &read, it, NULL);
    while (rc == 0 && (rc = log_iter_next(*it, out, NULL)) == E_MORE)
        rc = 0;
    return rc;
}

static int
read_acl(struct server *s, struct slice stream, struct buf *out)
{
    char             name[LOG_NAME_MAX + 3];
    struct log_iter *it;
    struct log_event event;
    struct log_meta  meta = {0};
    int              rc, n = snprintf(name, sizeof name, "$$%.*s", SLICE_FMT(stream));

    buf_clear(out);
    if (n > LOG_NAME_MAX)
        return 0;
    rc = last_event(s, slice_of(name, (size_t)n), &it, &event);
    if (rc == 0)
        rc = log_meta_parse(event.data, &meta, NULL);
    if (rc == 0)
        buf_add_slice(out, meta.acl);
    log_iter_close(it);
    if (rc == E_NOTFOUND || rc == E_END)
        rc = 0;
    return rc != 0 || out->failed ? E_IO : 0;
}

/* False: it cannot be read. Empty: there is none. */
static bool
find_acl(struct server *s, struct slice stream, struct slice *out)
{
    struct access *a = access_of(s);
    const uint8_t *p = stream.data;
    uint32_t       h = 2166136261u;
    uint64_t       now = serveri_now_ms(s);
    struct acl    *k;

    *out = (struct slice){0};
    if (a == NULL || stream.len == 0 || stream.len > LOG_NAME_MAX)
        return false;
    for (size_t i = 0; i < stream.len; i++)
        h = (h ^ p[i]) * 16777619u;
    k = &a->acls[(h ^ h >> 15) % ACLS];
    if (k->len != stream.len || memcmp(k->name, p, stream.len) != 0 ||
        k->generation != a->generation || now - k->at_ms > ACL_MS) {
        forget(k);
        k->closed = read_acl(s, stream, &a->large) != 0;
        if (a->large.len > ACL_KEPT_MAX) {
            *out = buf_slice(&a->large);
            return !k->closed;
        }
        if (!k->closed && a->large.len != 0) {
            k->json = malloc(a->large.len + 1);
            if (k->json == NULL)
                return false;
            memcpy(k->json, a->large.data, a->large.len);
            k->json[a->large.len] = '\0';
        }
        memcpy(k->name, p, stream.len);
        k->len = (uint16_t)stream.len;
        k->generation = a->generation;
        k->at_ms = now;
    }
    *out = slice_str(k->json);
    return !k->closed;
}

static bool
is_in_acl(const struct user *who, struct slice raw)
{
    struct json_iter it;
    struct slice     one;
    char             text[LOG_NAME_MAX + 1];
    struct buf       name = {.limit = sizeof text};
    bool             found = false;

    if (json_type(raw) == JSON_STRING) {
        found = json_string_decode(raw, &name, NULL) == 0 && is_named(who, buf_slice(&name));
    } else if (json_type(raw) == JSON_ARRAY && json_array_iter(&it, raw, NULL) == 0) {
        while (!found && json_iter_next(&it, NULL, &one, NULL) == 0) {
            buf_clear(&name);
            found = json_type(one) == JSON_STRING && json_string_decode(one, &name, NULL) == 0 &&
                    is_named(who, buf_slice(&name));
        }
    }
    buf_fini(&name);
    return found;
}

/* $settings. */

static void
read_settings(struct server *s, struct settings *k)
{
    struct log_iter *it;
    struct log_event event;
    struct slice     object;
    int              rc = last_event(s, slice_str(ACCESS_SETTINGS), &it, &event);

    buf_clear(&k->json);
    k->closed = rc != 0 && rc != E_NOTFOUND && rc != E_END;
    if (rc == 0) {
        k->closed = event.data.len > SETTINGS_MAX || json_value(event.data, &object, NULL) != 0 ||
                    json_type(object) != JSON_OBJECT;
        if (!k->closed)
            buf_add_slice(&k->json, object);
        k->closed = k->closed || k->json.failed;
    }
    log_iter_close(it);
}

/* What is preset for streams without an $acl. False: it cannot be read. Empty: nothing. */
static bool
find_preset(struct server *s, const char *key, struct slice *out)
{
    struct access   *a = access_of(s);
    struct settings *k = a == NULL ? NULL : &a->settings;
    uint64_t         now = serveri_now_ms(s);

    *out = (struct slice){0};
    if (k == NULL)
        return false;
    if (!k->known || k->generation != a->generation || now - k->at_ms > ACL_MS) {
        read_settings(s, k);
        k->known = true;
        k->generation = a->generation;
        k->at_ms = now;
    }
    if (k->closed)
        return false;
    if (k->json.len != 0 && json_get(buf_slice(&k->json), key, out) && !json_is_null(*out))
        return json_type(*out) == JSON_OBJECT;
    *out = (struct slice){0};
    return true;
}

/* Decisions. */

bool
serveri_access_on(const struct server *s)
{
    switch (s->auth_mode) {
    case SERVER_AUTH_OFF:
        return false;
    case SERVER_AUTH_ASKED:
        return s->users != NULL && user_any(s->users);
    default:
        return true;
    }
}

bool
serveri_may_read_all(struct server *s, const struct user *who)
{
    const struct server_permission *rule;

    if (!serveri_access_on(s))
        return true;
    if (who == NULL)
        return false;
    rule = rule_of(s, slice_str("$all"));
    return user_is(who, USER_ADMIN) || (rule != NULL && is_in_list(who, rule->read));
}

bool
serveri_may_follow(struct server *s, const struct user *who, struct slice source)
{
    const struct server_permission *rule;

    if (source.len == 0 || *(const char *)source.data != '$' ||
        slice_starts(source, slice_str("$$")))
        return serveri_may(s, who, ACCESS_READ, source);
    if (serveri_may_read_all(s, who))
        return true;
    rule = who == NULL ? NULL : rule_of(s, source);
    return rule != NULL && is_in_list(who, rule->read);
}

/* Without an $acl. */
static bool
may_by_rule(struct server *s, const struct user *who, enum access_right right, struct slice stream)
{
    bool                            reads = right == ACCESS_READ || right == ACCESS_META_READ;
    const char                     *name = stream.data, *dash = memchr(name, '-', stream.len);
    const struct server_permission *rule = NULL;
    bool                            system = name[0] == '$';
    struct slice                    preset, raw;

    if (dash != NULL && !system)
        rule = rule_of(s, slice_of(name, (size_t)(dash - name)));
    if (rule == NULL && !system)
        rule = rule_of(s, slice_str("*"));
    if (rule != NULL && (reads ? rule->has_read : rule->has_write))
        return is_in_list(who, reads ? rule->read : rule->write);
    if (!find_preset(s, system ? "$systemStreamAcl" : "$userStreamAcl", &preset))
        return false;
    if (preset.len != 0 && json_get(preset, right_keys[right], &raw) && !json_is_null(raw))
        return is_in_acl(who, raw);
    if (system)
        return false;
    return user_is(who, reads ? USER_READ : USER_WRITE);
}

/* A stream of metadata is its stream's. */
static enum access_right
right_on_meta(enum access_right right)
{
    return right == ACCESS_READ || right == ACCESS_META_READ ? ACCESS_META_READ : ACCESS_META_WRITE;
}

bool
serveri_may(struct server *s, const struct user *who, enum access_right right, struct slice stream)
{
    struct slice acl, raw;

    if (!serveri_access_on(s))
        return true;
    if (who == NULL || !user_is_valid(who))
        return false;
    if (user_is(who, USER_ADMIN))
        return true;
    while (stream.len > 2 && slice_starts(stream, slice_str("$$"))) {
        right = right_on_meta(right);
        stream = slice_of((const char *)stream.data + 2, stream.len - 2);
    }
    if (stream.len == 0)
        return false;
    if (right == ACCESS_READ && *(const char *)stream.data != '$' && serveri_may_read_all(s, who))
        return true;
    if (!find_acl(s, stream, &acl))
        return false;
    if (acl.len != 0 && json_get(acl, right_keys[right], &raw) && !json_is_null(raw))
        return is_in_acl(who, raw);
    return may_by_rule(s, who, right, stream);
}

bool
serveri_may_see(struct server *s, const struct user *who, const struct log_event *e)
{
    if (!serveri_access_on(s))
        return true;
    /* The links of $streams are the log's own: what they name is what they show. */
    if (e->link.stream.len != 0 && !slice_is(e->link.stream, "$streams") &&
        !serveri_may(s, who, ACCESS_READ, e->link.stream))
        return false;
    if (slice_is(e->stream, "$streams")) {
        const char *at = e->data.len == 0 ? NULL : memchr(e->data.data, '@', e->data.len);

        return at != NULL &&
               serveri_may(
                   s, who, ACCESS_READ,
                   slice_of(at + 1, e->data.len - (size_t)(at + 1 - (const char *)e->data.data)));
    }
    return serveri_may(s, who, ACCESS_READ, e->stream);
}

int
serveri_access_refuse(struct server *s, const struct user *who, const char *what,
                      struct slice stream, struct err *err)
{
    s->stats.access_denied++;
    serveri_audit(s, "AccessDenied", NULL, slice_str(who == NULL ? NULL : user_name(who)),
                  slice_str(what), stream);
    if (who == NULL)
        RETURN_ERR(err, E_AUTH, ERR_DATA, "without a user nobody may %s \"%.*s\"", what,
                   SLICE_FMT(stream));
    RETURN_ERR(err, E_AUTH, ERR_DATA, "user \"%s\" may not %s \"%.*s\"", user_name(who), what,
               SLICE_FMT(stream));
}

static int
check(struct server *s, const struct user *who, enum access_right right, struct slice stream,
      struct err *err)
{
    if (serveri_may(s, who, right, stream))
        return 0;
    return serveri_access_refuse(s, who, right_words[right], stream, err);
}

int
serveri_may_commit(struct server *s, const struct user *who, const struct log_req *req,
                   struct err *err)
{
    int rc = 0;

    if (!serveri_access_on(s))
        return 0;
    for (uint32_t i = 0; i < req->write_count; i++)
        TRY(check(s, who, ACCESS_WRITE, req->writes[i].stream, err));
    for (uint32_t i = 0; i < req->change_count; i++) {
        bool deletes = (req->changes[i].what & (LOG_SET_DELETED | LOG_SET_TOMBSTONE)) != 0;

        TRY(check(s, who, deletes ? ACCESS_DELETE : ACCESS_META_WRITE, req->changes[i].stream,
                  err));
    }
    /* Whether a check holds tells what there is. */
    for (uint32_t i = 0; i < req->check_count; i++)
        if (!serveri_may(s, who, ACCESS_WRITE, req->checks[i].stream))
            TRY(check(s, who, ACCESS_READ, req->checks[i].stream, err));
out:
    return rc;
}

void
serveri_access_note(struct server *s, const struct log_req *req)
{
    if (s->access == NULL)
        return;
    for (uint32_t i = 0; i < req->write_count; i++)
        if (slice_starts(req->writes[i].stream, slice_str("$$")) ||
            slice_is(req->writes[i].stream, ACCESS_SETTINGS))
            s->access->generation++;
    if (req->change_count != 0)
        s->access->generation++;
}

/* Routes. */

bool
serveri_may_do(const struct server *s, const struct user *who, enum access_need need)
{
    if (need == ACCESS_OPEN || !serveri_access_on(s))
        return true;
    if (who == NULL || !user_is_valid(who))
        return false;
    if (user_is(who, USER_ADMIN))
        return true;
    return need == ACCESS_OPS ? user_is(who, USER_OPS)
                              : need != ACCESS_ADMIN && need != ACCESS_UNDECIDED;
}

static bool
may_route(struct call *call, enum access_need need)
{
    struct server *s = call->conn->server;

    switch (need) {
    case ACCESS_SELF:
        return slice_is(call_param(call, "user"), user_name(call->who));
    case ACCESS_ALL:
        return serveri_may_read_all(s, call->who);
    case ACCESS_GROUP:
        return serveri_may_follow(s, call->who, call_param(call, "stream"));
    case ACCESS_STREAM_READ:
        /* Reads by position give what may be seen of them. */
        return serveri_is_native(call_param(call, "stream")) ||
               serveri_may(s, call->who, ACCESS_READ, call_param(call, "stream"));
    case ACCESS_STREAM_WRITE:
        return serveri_may(s, call->who, ACCESS_WRITE, call_param(call, "stream"));
    case ACCESS_STREAM_META_READ:
        return serveri_may(s, call->who, ACCESS_META_READ, call_param(call, "stream"));
    default:
        return true;
    }
}

static void
refuse_route(struct call *call, enum access_need need, struct err *err)
{
    struct server *s = call->conn->server;

    if (need == ACCESS_STREAM_READ || need == ACCESS_GROUP)
        (void)serveri_access_refuse(s, call->who, right_words[ACCESS_READ],
                                    call_param(call, "stream"), err);
    else if (need == ACCESS_STREAM_WRITE)
        (void)serveri_access_refuse(s, call->who, right_words[ACCESS_WRITE],
                                    call_param(call, "stream"), err);
    else if (need == ACCESS_STREAM_META_READ)
        (void)serveri_access_refuse(s, call->who, right_words[ACCESS_META_READ],
                                    call_param(call, "stream"), err);
    else
        (void)serveri_access_refuse(s, call->who, call->route->def.method,
                                    slice_str(call->route->def.path), err);
}

bool
serveri_access_route(struct call *call)
{
    struct server   *s = call->conn->server;
    enum access_need need = (enum access_need)call->route->need;
    struct err       err;

    if (need == ACCESS_OPEN || !serveri_access_on(s))
        return true;
    if (call->who == NULL) {
        call_refuse(call, 401, "unauthorized",
                    "say who you are: a name and password (Basic), or a token (Bearer)");
        return false;
    }
    if (serveri_may_do(s, call->who, need) &&
        (user_is(call->who, USER_ADMIN) || may_route(call, need))) {
        if (call->conn->head.method != HTTP1_GET && call->conn->head.method != HTTP1_HEAD &&
            (need == ACCESS_OPS || need == ACCESS_ADMIN))
            serveri_audit(s, "Administered", &call->conn->peer, slice_str(user_name(call->who)),
                          slice_str(call->route->def.method), slice_str(call->route->def.path));
        return true;
    }
    refuse_route(call, need, &err);
    call_refuse(call, 403, "access-denied", err.text);
    return false;
}

bool
call_may_write(struct call *call, struct slice stream)
{
    return serveri_may(call->conn->server, call->who, ACCESS_WRITE, stream);
}
