/* user …: in a folder, and at a server. Passwords are never words of the command line. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "base/env.h"
#include "base/json.h"
#include "base/must.h"
#include "base/url.h"
#include "cli/cli_int.h"
#include "env/env_real.h"
#include "log/log.h"
#include "user/user.h"

struct secret {
    char   text[USER_PASSWORD_MAX + 2];
    size_t len;
    bool   made;
};

/* The folder's log and users, for as long as a command takes. */
struct local_users {
    struct log   *log;
    struct users *users;
};

static int
open_local(struct cli *c, bool write, struct local_users *l, struct err *err)
{
    int rc = 0;

    c->opening = true;
    TRY(clii_log_open(c, write, &l->log, err));
    c->opening = false;
    TRY(user_open(env_real(), l->log, &l->users, err));
out:
    return rc;
}

static void
close_local(struct cli *c, struct local_users *l)
{
    user_close(l->users);
    clii_log_close(c, l->log);
}

/* "/v1/users[/NAME[/WORD[/ID]]]" */
static void
put_path(struct buf *path, const char *name, const char *word, const char *id)
{
    const char *parts[3] = {name, word, id};

    buf_clear(path);
    buf_add_str(path, "/v1/users");
    for (int i = 0; i < 3 && parts[i] != NULL; i++) {
        buf_add_byte(path, '/');
        url_encode(path, slice_str(parts[i]));
    }
    buf_add_byte(path, '\0');
}

static int
request(struct cli *c, const char *method, const struct buf *path, struct slice body,
        struct buf *answer, struct err *err)
{
    if (path->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return clii_request(c, method, (const char *)path->data, body, answer, err);
}

/* Passwords. */

static int
read_terminal(const char *question, struct secret *out, struct err *err)
{
    struct termios was, quiet;
    bool           known = tcgetattr(STDIN_FILENO, &was) == 0;
    char          *got;

    quiet = was;
    quiet.c_lflag &= (tcflag_t)~ECHO;
    (void)fprintf(stderr, "%s", question);
    (void)fflush(stderr);
    if (known)
        (void)tcsetattr(STDIN_FILENO, TCSAFLUSH, &quiet);
    got = fgets(out->text, sizeof out->text, stdin);
    if (known)
        (void)tcsetattr(STDIN_FILENO, TCSAFLUSH, &was);
    (void)fprintf(stderr, "\n");
    if (got == NULL)
        RETURN_ERR(err, E_USAGE, ERR_DATA, "no password was given");
    return 0;
}

static int
read_secret(struct cli *c, struct secret *out, struct err *err)
{
    const char   *set = getenv("OXBOW_NEW_PASSWORD");
    struct secret again;
    int           rc = 0;

    memset(out, 0, sizeof *out);
    if (c->opt[OPT_GENERATE] != NULL) {
        user_secret(env_real(), out->text);
        out->made = true;
    } else if (set != NULL) {
        (void)snprintf(out->text, sizeof out->text, "%s", set);
    } else if (isatty(STDIN_FILENO) == 1) {
        TRY(read_terminal("password: ", out, err));
        TRY(read_terminal("again: ", &again, err));
        if (strcmp(out->text, again.text) != 0)
            FAIL(err, E_USAGE, ERR_DATA, "the two passwords differ");
    } else if (fgets(out->text, sizeof out->text, stdin) == NULL) {
        FAIL(err, E_USAGE, ERR_DATA,
             "no password: set OXBOW_NEW_PASSWORD, give it on stdin, or say --generate");
    }
    out->text[strcspn(out->text, "\r\n")] = '\0';
    out->len = strlen(out->text);
out:
    return rc;
}

static void
say_secret(struct cli *c, const char *name, const struct secret *s)
{
    struct buf      line = {0};
    struct json_out o;

    if (!s->made)
        return;
    if (!clii_json(c)) {
        clii_printf(c, "%s\n", s->text);
        return;
    }
    json_out_init(&o, &line);
    json_out_object(&o);
    json_out_key(&o, "name");
    json_out_str(&o, name);
    json_out_key(&o, "password");
    json_out_str(&o, s->text);
    json_out_object_end(&o);
    buf_add_byte(&line, '\n');
    clii_put_buf(c, &line);
    buf_fini(&line);
}

/* Showing. */

static void
put_user(struct cli *c, struct slice object)
{
    if (clii_json(c) || !c->out_tty) {
        clii_put(c, object.data, object.len);
        clii_put(c, "\n", 1);
    } else {
        clii_put_table(c, object);
    }
}

static int
list_one(void *arg, struct user *user)
{
    struct buf      line = {0};
    struct json_out o;

    json_out_init(&o, &line);
    user_json(user, &o);
    put_user(arg, buf_slice(&line));
    buf_fini(&line);
    return 0;
}

static int
put_each(struct cli *c, struct slice object, const char *key, struct err *err)
{
    struct json_iter it;
    struct slice     all, one;
    int              rc = 0;

    if (!json_get(object, key, &all))
        FAIL(err, E_REMOTE, ERR_DATA, "the server's answer is not one of Oxbow's");
    TRY(json_array_iter(&it, all, err));
    while ((rc = json_iter_next(&it, NULL, &one, err)) == 0)
        put_user(c, one);
    rc = rc == E_END ? 0 : rc;
out:
    return rc;
}

int
clii_user_list(struct cli *c, struct err *err)
{
    struct local_users l = {0};
    struct buf         path = {0}, answer = {0};
    int                rc = 0;

    if (clii_server(c) != NULL) {
        put_path(&path, NULL, NULL, NULL);
        TRY(request(c, "GET", &path, (struct slice){0}, &answer, err));
        TRY(put_each(c, buf_slice(&answer), "users", err));
    } else {
        TRY(open_local(c, false, &l, err));
        (void)user_each(l.users, list_one, c);
    }
out:
    close_local(c, &l);
    buf_fini(&path);
    buf_fini(&answer);
    return rc;
}

/* The user as JSON. */
static int
get_user(struct cli *c, const char *name, struct buf *out, struct err *err)
{
    struct local_users l = {0};
    struct user       *u = NULL;
    struct json_out    o;
    struct buf         path = {0};
    int                rc = 0;

    if (clii_server(c) != NULL) {
        put_path(&path, name, NULL, NULL);
        TRY(request(c, "GET", &path, (struct slice){0}, out, err));
    } else {
        TRY(open_local(c, false, &l, err));
        u = user_get(l.users, slice_str(name));
        if (u == NULL)
            FAIL(err, E_NOTFOUND, ERR_DATA, "there is no user \"%s\"", name);
        json_out_init(&o, out);
        user_json(u, &o);
    }
out:
    user_put(u);
    close_local(c, &l);
    buf_fini(&path);
    return rc;
}

int
clii_user_show(struct cli *c, struct err *err)
{
    struct buf answer = {0};
    int        rc = get_user(c, c->args[0], &answer, err);

    if (rc == 0)
        put_user(c, buf_slice(&answer));
    buf_fini(&answer);
    return rc;
}

/* Changing. */

/* "a,b" as a JSON array of strings. */
static void
put_words(struct json_out *o, const char *words)
{
    json_out_array(o);
    for (const char *p = words; *p != '\0';) {
        size_t len = strcspn(p, ",");

        if (len != 0)
            json_out_string(o, slice_of(p, len));
        p += len;
        p += *p == ',';
    }
    json_out_array_end(o);
}

static void
put_member(struct json_out *o, const char *key, const char *text)
{
    if (text == NULL)
        return;
    json_out_key(o, key);
    json_out_str(o, text);
}

/* What the options say. `password` NULL: none. */
static void
put_body(const struct cli *c, const char *name, const struct secret *password, struct buf *body)
{
    struct json_out o;

    json_out_init(&o, body);
    json_out_object(&o);
    put_member(&o, "name", name);
    put_member(&o, "full_name", c->opt[OPT_FULL_NAME]);
    if (c->opt[OPT_ROLE] != NULL) {
        json_out_key(&o, "roles");
        put_words(&o, c->opt[OPT_ROLE]);
    }
    if (c->opt[OPT_GROUP] != NULL) {
        json_out_key(&o, "groups");
        put_words(&o, c->opt[OPT_GROUP]);
    }
    put_member(&o, "password", password == NULL ? NULL : password->text);
    json_out_object_end(&o);
}

static int
set_local(struct cli *c, bool add, const struct secret *password, struct err *err)
{
    struct local_users l = {0};
    struct buf         groups = {0};
    struct json_out    o;
    struct user_spec   spec = {.name = slice_str(c->args[0]),
                               .full_name = slice_str(c->opt[OPT_FULL_NAME]),
                               .has_roles = c->opt[OPT_ROLE] != NULL};
    int                rc = 0;

    if (c->opt[OPT_ROLE] != NULL && !user_roles_parse(slice_str(c->opt[OPT_ROLE]), &spec.roles))
        FAIL(err, E_USAGE, ERR_DATA, "--role %s: roles are admin, ops, read and write",
             c->opt[OPT_ROLE]);
    if (c->opt[OPT_GROUP] != NULL) {
        json_out_init(&o, &groups);
        put_words(&o, c->opt[OPT_GROUP]);
        spec.groups = buf_slice(&groups);
    }
    if (password != NULL)
        spec.password = slice_of(password->text, password->len);
    TRY(open_local(c, true, &l, err));
    TRY(add ? user_add(l.users, &spec, err) : user_change(l.users, &spec, err));
out:
    close_local(c, &l);
    buf_fini(&groups);
    return rc;
}

/* `word` is the path's, or NULL. */
static int
set_remote(struct cli *c, const char *method, const char *name, const char *word, const char *named,
           const struct secret *password, struct err *err)
{
    struct buf path = {0}, body = {0}, answer = {0};
    int        rc = 0;

    put_path(&path, name, word, NULL);
    put_body(c, named, password, &body);
    if (word != NULL && getenv("OXBOW_PASSWORD") != NULL && body.len > 1) {
        body.len--; /* the bracket */
        buf_add_str(&body, ",\"current\":");
        json_put_str(&body, getenv("OXBOW_PASSWORD"));
        buf_add_byte(&body, '}');
    }
    TRY(request(c, method, &path, buf_slice(&body), &answer, err));
out:
    buf_fini(&path);
    buf_fini(&body);
    buf_fini(&answer);
    return rc;
}

int
clii_user_add(struct cli *c, struct err *err)
{
    struct secret password;
    int           rc = 0;

    TRY(read_secret(c, &password, err));
    if (clii_server(c) != NULL)
        TRY(set_remote(c, "POST", NULL, NULL, c->args[0], &password, err));
    else
        TRY(set_local(c, true, &password, err));
    say_secret(c, c->args[0], &password);
out:
    return rc;
}

int
clii_user_change(struct cli *c, struct err *err)
{
    if (c->opt[OPT_ROLE] == NULL && c->opt[OPT_GROUP] == NULL && c->opt[OPT_FULL_NAME] == NULL)
        RETURN_ERR(err, E_USAGE, ERR_DATA, "nothing to change: say --role, --group or --full-name");
    if (clii_server(c) != NULL)
        return set_remote(c, "PATCH", c->args[0], NULL, NULL, NULL, err);
    return set_local(c, false, NULL, err);
}

int
clii_user_passwd(struct cli *c, struct err *err)
{
    struct secret password;
    int           rc = 0;

    TRY(read_secret(c, &password, err));
    if (clii_server(c) != NULL)
        TRY(set_remote(c, "POST", c->args[0], "password", NULL, &password, err));
    else
        TRY(set_local(c, false, &password, err));
    say_secret(c, c->args[0], &password);
out:
    return rc;
}

/* disable, enable, delete */
int
clii_user_command(struct cli *c, struct err *err)
{
    struct local_users l = {0};
    struct buf         path = {0}, answer = {0};
    const char        *word = strchr(c->command->name, ' ') + 1;
    struct slice       name = slice_str(c->args[0]);
    bool               deletes = strcmp(word, "delete") == 0;
    int                rc = 0;

    if (clii_server(c) != NULL) {
        put_path(&path, c->args[0], deletes ? NULL : word, NULL);
        TRY(request(c, deletes ? "DELETE" : "POST", &path,
                    deletes ? (struct slice){0} : slice_str("{}"), &answer, err));
        goto out;
    }
    TRY(open_local(c, true, &l, err));
    if (deletes)
        TRY(user_delete(l.users, name, err));
    else
        TRY(user_enable(l.users, name, strcmp(word, "enable") == 0, err));
out:
    close_local(c, &l);
    buf_fini(&path);
    buf_fini(&answer);
    return rc;
}

/* Tokens. */

static void
say_token(struct cli *c, const char *id, const char *token)
{
    if (clii_json(c))
        clii_printf(c, "{\"id\":\"%s\",\"token\":\"%s\"}\n", id, token);
    else
        clii_printf(c, "%s\n", token);
}

static int
token_remote(struct cli *c, int64_t expires_us, struct err *err)
{
    struct buf      path = {0}, body = {0}, answer = {0}, id = {0}, token = {0};
    struct slice    raw_id, raw_token;
    struct json_out o;
    int             rc = 0;

    put_path(&path, c->args[1], "tokens", NULL);
    json_out_init(&o, &body);
    json_out_object(&o);
    put_member(&o, "label", c->opt[OPT_LABEL]);
    json_out_key(&o, "expires_us");
    json_out_i64(&o, expires_us);
    json_out_object_end(&o);
    TRY(request(c, "POST", &path, buf_slice(&body), &answer, err));
    if (!json_get(buf_slice(&answer), "id", &raw_id) ||
        !json_get(buf_slice(&answer), "token", &raw_token) ||
        json_string_decode(raw_id, &id, err) != 0 ||
        json_string_decode(raw_token, &token, err) != 0)
        FAIL(err, E_REMOTE, ERR_DATA, "the server's answer is not one of Oxbow's");
    buf_add_byte(&id, '\0');
    buf_add_byte(&token, '\0');
    say_token(c, (const char *)id.data, (const char *)token.data);
out:
    buf_fini(&path);
    buf_fini(&body);
    buf_fini(&answer);
    buf_fini(&id);
    buf_fini(&token);
    return rc;
}

static int
add_token(struct cli *c, struct err *err)
{
    struct local_users l = {0};
    char               token[USER_SECRET_BYTES], id[9];
    int64_t            expires_us = 0;
    uint64_t           seconds;
    int                rc = 0;

    if (c->opt[OPT_EXPIRES] != NULL) {
        TRY(clii_seconds(c, OPT_EXPIRES, &seconds, err));
        expires_us = env_real()->ops->wall_us(env_real()) + (int64_t)seconds * 1000000;
    }
    if (clii_server(c) != NULL)
        return token_remote(c, expires_us, err);
    TRY(open_local(c, true, &l, err));
    TRY(user_token_add(l.users, slice_str(c->args[1]), slice_str(c->opt[OPT_LABEL]), expires_us,
                       token, id, err));
    say_token(c, id, token);
out:
    close_local(c, &l);
    return rc;
}

static int
revoke_token(struct cli *c, struct err *err)
{
    struct local_users l = {0};
    struct buf         path = {0}, answer = {0};
    int                rc = 0;

    if (c->arg_count != 3)
        FAIL(err, E_USAGE, ERR_DATA, "user token revoke: needs the token's id");
    if (clii_server(c) != NULL) {
        put_path(&path, c->args[1], "tokens", c->args[2]);
        TRY(request(c, "DELETE", &path, (struct slice){0}, &answer, err));
    } else {
        TRY(open_local(c, true, &l, err));
        TRY(user_token_revoke(l.users, slice_str(c->args[1]), slice_str(c->args[2]), err));
    }
out:
    close_local(c, &l);
    buf_fini(&path);
    buf_fini(&answer);
    return rc;
}

int
clii_user_token(struct cli *c, struct err *err)
{
    struct buf answer = {0};
    int        rc;

    if (strcmp(c->args[0], "add") == 0)
        return add_token(c, err);
    if (strcmp(c->args[0], "revoke") == 0)
        return revoke_token(c, err);
    if (strcmp(c->args[0], "list") != 0)
        RETURN_ERR(err, E_USAGE, ERR_DATA, "user token %s: must be add, list or revoke",
                   c->args[0]);
    rc = get_user(c, c->args[1], &answer, err);
    if (rc == 0)
        rc = put_each(c, buf_slice(&answer), "tokens", err);
    buf_fini(&answer);
    return rc;
}
