/* PersistentSubscriptions: making, changing, showing groups. What changes one is a commit. */
#include <stdio.h>
#include <stdlib.h>

#include "base/must.h"
#include "server/grpc_group_int.h"

#define TICKS_PER_MS 10000

struct order {
    struct message        message; /* first: from the groups' task back to the loop */
    struct conn          *conn;
    struct rpc           *rpc; /* NULL: gone */
    struct group_command  command;
    struct group_target   target;
    struct group_settings settings;
    struct grpc_filter    filter;
    struct buf            texts;
};

/* Ends. */

void
grpci_group_refuse(struct rpc *r, enum rpc_status status, const char *exception,
                   const struct group_target *target, const char *text)
{
    rpc_trailer(r, "group-name", grpci_name(&target->name));
    if (status == RPC_INTERNAL)
        rpc_trailer(r, "reason", slice_str(text));
    grpci_refuse(r, status, exception, grpci_name(&target->source), text);
}

void
grpci_group_fail(struct rpc *r, const struct err *err, const struct group_target *target)
{
    if (err->code == E_NOTFOUND)
        grpci_group_refuse(r, RPC_NOT_FOUND, "persistent-subscription-does-not-exist", target,
                           err->text);
    else if (err->code == E_EXISTS)
        grpci_group_refuse(r, RPC_ALREADY_EXISTS, "persistent-subscription-exists", target,
                           err->text);
    else if (err->code == E_INVALID || err->code == E_LIMIT)
        grpci_group_refuse(r, RPC_INTERNAL, "persistent-subscription-failed", target, err->text);
    else
        rpc_end(r, grpci_status(err), err->text);
}

/* Commands. */

static void
order_free(struct order *o)
{
    grpci_filter_fini(&o->filter);
    buf_fini(&o->texts);
    free(o);
}

static void
on_answer(struct message *m)
{
    struct order *o = (struct order *)m;
    struct conn  *c = o->conn;
    struct err   *err = &o->command.err;
    bool          nothing = o->command.rc == E_NOTFOUND &&
                   (o->command.verb == GROUP_REPLAY || o->command.verb == GROUP_SKIP);

    c->server->in_flight--;
    if (o->rpc != NULL && (o->command.rc == 0 || nothing))
        grpci_answer(o->rpc, (struct slice){0});
    else if (o->rpc != NULL)
        grpci_group_fail(o->rpc, err, &o->target);
    order_free(o);
    serveri_conn_release(c);
}

/* On the groups' task. */
static void
on_done(struct group_command *command)
{
    struct order *o = command->arg;

    serveri_post(o->conn->server, &o->message);
}

static void
on_gone(struct rpc *r)
{
    struct order *o = rpc_state(r);

    if (o != NULL)
        o->rpc = NULL;
}

static struct order *
order_new(struct rpc *r, enum group_verb verb)
{
    struct order *o = calloc(1, sizeof *o);

    if (o == NULL) {
        rpc_end(r, RPC_RESOURCE_EXHAUSTED, "no memory for the request");
        return NULL;
    }
    o->rpc = r;
    o->conn = grpci_conn(r);
    o->command.verb = verb;
    group_settings_init(&o->settings);
    o->settings.deliver_links = true; /* as KurrentDB does where it does not resolve them */
    return o;
}

static void
submit(struct rpc *r, struct order *o)
{
    o->command.source = grpci_name(&o->target.source);
    o->command.name = grpci_name(&o->target.name);
    o->command.settings = &o->settings;
    o->command.done = on_done;
    o->command.arg = o;
    o->message.fn = on_answer;
    o->conn->users++;
    o->conn->server->in_flight++;
    rpc_set_state(r, o);
    group_submit(o->conn->server->groups, &o->command);
}

/* Settings. */

static uint32_t
number_of(uint64_t value)
{
    return value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
}

static bool
read_strategy(const struct pb_field *f, struct group_settings *s)
{
    static const enum group_strategy strategies[] = {GROUP_SINGLE, GROUP_ROUND_ROBIN, GROUP_PINNED};

    if (f->key == PB_BYTES(16))
        return f->bytes.len == 0 || group_strategy_of(f->bytes, &s->strategy);
    if (f->value > 2)
        return false;
    s->strategy = strategies[f->value];
    return true;
}

/* `start`: the deprecated one, for a stream. */
static bool
read_setting(const struct pb_field *f, struct group_settings *s, uint64_t *start)
{
    switch (f->key) {
    case PB_VARINT(1):
        s->resolve_links = f->value != 0;
        s->deliver_links = f->value == 0;
        return true;
    case PB_VARINT(2):
        *start = f->value;
        return true;
    case PB_VARINT(3):
        s->extra_statistics = f->value != 0;
        return true;
    case PB_VARINT(4):
        s->message_timeout_ms = number_of(f->value / TICKS_PER_MS);
        return true;
    case PB_VARINT(14):
        s->message_timeout_ms = number_of(f->value);
        return true;
    case PB_VARINT(6):
        s->checkpoint_after_ms = number_of(f->value / TICKS_PER_MS);
        return true;
    case PB_VARINT(15):
        s->checkpoint_after_ms = number_of(f->value);
        return true;
    case PB_VARINT(5):
        s->max_retry_count = number_of(f->value);
        return true;
    case PB_VARINT(7):
        s->min_checkpoint_count = number_of(f->value);
        return true;
    case PB_VARINT(8):
        s->max_checkpoint_count = number_of(f->value);
        return true;
    case PB_VARINT(9):
        s->max_subscriber_count = number_of(f->value);
        return true;
    case PB_VARINT(10):
        s->live_buffer_size = number_of(f->value);
        return true;
    case PB_VARINT(11):
        s->read_batch_size = number_of(f->value);
        return true;
    case PB_VARINT(12):
        s->history_buffer_size = number_of(f->value);
        return true;
    case PB_VARINT(13):
    case PB_BYTES(16):
        return read_strategy(f, s);
    default:
        return true;
    }
}

/* Fields left out are 0 on the wire, which is what the client means by them. */
static bool
read_settings(struct slice message, struct group_settings *s, uint64_t *start)
{
    struct pb_in    in;
    struct pb_field f;
    bool            ok = true;

    s->strategy = GROUP_SINGLE;
    s->message_timeout_ms = s->max_retry_count = 0;
    *start = 0;
    pb_in_init(&in, message);
    while (ok && pb_next(&in, &f))
        ok = read_setting(&f, s, start);
    return ok && !in.bad;
}

static void
set_start(struct group_settings *s, uint64_t start)
{
    s->from = start == GRPCI_END ? GROUP_END : start == 0 ? GROUP_BEGINNING : GROUP_AT;
    s->at = s->from == GROUP_AT ? start : 0;
}

/* StreamOptions {1 name; 2 revision; 3 start; 4 end}, AllOptions {1 position; 2 start; 3 end; 4
 * filter}. */
static const char *
read_source(struct order *o, struct slice message, bool all, uint64_t *start, bool *said)
{
    struct pb_in    in;
    struct pb_field f;
    uint64_t        prepare;
    const char     *why = NULL;

    if (all)
        grpci_set_name(&o->target.source, slice_str("$all"));
    pb_in_init(&in, message);
    while (why == NULL && pb_next(&in, &f)) {
        bool ok = true;

        if (f.key == PB_BYTES(1) && all) {
            ok = grpci_read_position(f.bytes, start, &prepare);
            *said = true;
        } else if (f.key == PB_BYTES(1)) {
            ok = grpci_read_name(f.bytes, &o->target.source);
        } else if (f.key == PB_BYTES(4) && all) {
            why = grpci_filter_read(f.bytes, &o->filter);
        } else if (f.key == PB_VARINT(2) && !all) {
            *start = f.value;
            *said = true;
        } else if (f.key == PB_BYTES(all ? 2 : 3)) {
            *start = 0;
            *said = true;
        } else if (f.key == PB_BYTES(all ? 3 : 4)) {
            *start = GRPCI_END;
            *said = true;
        }
        if (!ok)
            why = "the request is malformed";
    }
    return why != NULL ? why : in.bad ? "the request is malformed" : NULL;
}

/* Several prefixes are one pattern for the group. */
static void
add_pattern(const struct grpc_filter *f, struct buf *out)
{
    buf_add_str(out, "^(");
    for (unsigned i = 0; i < f->prefix_count; i++) {
        const char *p = f->prefixes[i].data;

        if (i != 0)
            buf_add_byte(out, '|');
        for (size_t k = 0; k < f->prefixes[i].len; k++) {
            if (strchr("\\^$.|?*+()[]{}", p[k]) != NULL)
                buf_add_byte(out, '\\');
            buf_add_byte(out, (uint8_t)p[k]);
        }
    }
    buf_add_byte(out, ')');
}

static void
set_filter(struct order *o)
{
    struct grpc_filter    *f = &o->filter;
    struct group_settings *s = &o->settings;

    s->system = slice_is(grpci_name(&o->target.source), "$all");
    if (f->prefix_count == 1 && !f->has_regex) {
        *(f->by_type ? &s->type_prefix : &s->prefix) = f->prefixes[0];
        return;
    }
    if (f->has_regex)
        buf_add_slice(&o->texts, f->pattern);
    else if (f->prefix_count > 1)
        add_pattern(f, &o->texts);
    if (o->texts.len != 0)
        *(f->by_type ? &s->type_regex : &s->stream_regex) = buf_slice(&o->texts);
}

/* The options of Create and Update: 1 stream (deprecated), 2 name, 3 settings, 4 stream, 5 $all. */
static const char *
read_options(struct order *o, struct slice message)
{
    struct pb_in    in;
    struct pb_field f;
    uint64_t        start = 0, old = 0;
    bool            said = false;
    const char     *why = NULL;

    pb_in_init(&in, message);
    while (why == NULL && pb_next(&in, &f)) {
        bool ok = true;

        if (f.key == PB_BYTES(1))
            ok = grpci_read_name(f.bytes, &o->target.source);
        else if (f.key == PB_BYTES(2))
            grpci_set_name(&o->target.name, f.bytes);
        else if (f.key == PB_BYTES(3))
            ok = read_settings(f.bytes, &o->settings, &old);
        else if (f.key == PB_BYTES(4) || f.key == PB_BYTES(5))
            why = read_source(o, f.bytes, f.key == PB_BYTES(5), &start, &said);
        if (!ok)
            why = "the settings are malformed";
    }
    set_start(&o->settings, said ? start : old);
    set_filter(o);
    if (why == NULL && (in.bad || o->texts.failed))
        why = "the request is malformed";
    if (why == NULL && (o->target.source.too_long || o->target.name.too_long))
        why = "a name has more than 255 bytes";
    return why;
}

/* An update leaves the start and the filter as they are. */
static void
keep_start(void *arg, const struct group_info *info)
{
    struct order                *o = arg;
    const struct group_settings *old = info->settings;
    const struct slice           from[] = {old->prefix,      old->category,     old->type,
                                           old->type_prefix, old->stream_regex, old->type_regex};
    struct slice                *to[] = {&o->settings.prefix,       &o->settings.category,
                                         &o->settings.type,         &o->settings.type_prefix,
                                         &o->settings.stream_regex, &o->settings.type_regex};
    size_t                       at = 0;

    o->settings.from = old->from;
    o->settings.at = old->at;
    o->settings.system = old->system;
    o->settings.park_behind = old->park_behind;
    buf_clear(&o->texts);
    for (int i = 0; i < 6; i++)
        buf_add_slice(&o->texts, from[i]);
    for (int i = 0; i < 6; at += from[i++].len)
        *to[i] = slice_of(o->texts.data == NULL ? NULL : o->texts.data + at,
                          o->texts.failed ? 0 : from[i].len);
}

static void
change(struct rpc *r, struct slice message, enum group_verb verb)
{
    struct order  *o = order_new(r, verb);
    struct groups *groups = grpci_server(r)->groups;
    struct slice   options;
    const char    *why = "the request is malformed";
    struct err     err;
    int            rc = 0;

    if (o == NULL)
        return;
    if (grpci_options(message, &options))
        why = read_options(o, options);
    if (why == NULL && verb == GROUP_UPDATE)
        rc = group_get(groups, grpci_name(&o->target.source), grpci_name(&o->target.name),
                       keep_start, o, &err);
    if (why == NULL && rc == 0) {
        submit(r, o);
        return;
    }
    if (why != NULL)
        grpci_bad(r, why);
    else
        grpci_group_fail(r, &err, &o->target);
    order_free(o);
}

static void
create_group(struct rpc *r, struct slice message)
{
    change(r, message, GROUP_CREATE);
}

static void
update_group(struct rpc *r, struct slice message)
{
    change(r, message, GROUP_UPDATE);
}

/* Delete, GetInfo and ReplayParked name a group in almost the same way: the fields of the stream,
 * of $all and of the name. */
static bool
read_target(struct slice message, const unsigned numbers[3], struct group_target *out,
            uint64_t *stop_at)
{
    struct slice    options;
    struct pb_in    in;
    struct pb_field f;
    bool            ok = grpci_options(message, &options);

    pb_in_init(&in, options);
    while (ok && pb_next(&in, &f)) {
        if (f.key == PB_BYTES(numbers[0]))
            ok = grpci_read_name(f.bytes, &out->source);
        else if (f.key == PB_BYTES(numbers[1]))
            grpci_set_name(&out->source, slice_str("$all"));
        if (f.key == PB_BYTES(numbers[2]))
            grpci_set_name(&out->name, f.bytes);
        else if (f.key == PB_VARINT(4) && stop_at != NULL)
            *stop_at = f.value;
    }
    return ok && !in.bad && !out->source.too_long && !out->name.too_long;
}

static void
delete_group(struct rpc *r, struct slice message)
{
    struct order *o = order_new(r, GROUP_DELETE);

    if (o == NULL)
        return;
    if (read_target(message, (const unsigned[]){1, 3, 2}, &o->target, NULL)) {
        submit(r, o);
        return;
    }
    grpci_bad(r, "the request is malformed");
    order_free(o);
}

static void
look_only(void *arg, const struct group_info *info)
{
}

/* ReplayParked and TruncateParked. */
static void
settle_parked(struct rpc *r, struct slice message, enum group_verb verb)
{
    struct order *o = order_new(r, verb);
    struct err    err;

    if (o == NULL)
        return;
    if (!read_target(message, (const unsigned[]){2, 3, 1}, &o->target, &o->command.limit))
        grpci_bad(r, "the request is malformed");
    else if (group_get(o->conn->server->groups, grpci_name(&o->target.source),
                       grpci_name(&o->target.name), look_only, NULL, &err) != 0)
        grpci_group_fail(r, &err, &o->target);
    else {
        submit(r, o);
        return;
    }
    order_free(o);
}

static void
replay_parked(struct rpc *r, struct slice message)
{
    settle_parked(r, message, GROUP_REPLAY);
}

static void
truncate_parked(struct rpc *r, struct slice message)
{
    settle_parked(r, message, GROUP_SKIP);
}

static void
restart_subsystem(struct rpc *r, struct slice message)
{
    grpci_answer(r, (struct slice){0});
}

/* Showing. */

struct shown {
    struct buf *out;
    unsigned    count;
};

static void
put_text(struct buf *out, unsigned number, bool all, uint64_t value)
{
    char text[64];

    if (all)
        (void)snprintf(text, sizeof text, "C:%llu/P:%llu", (unsigned long long)value,
                       (unsigned long long)value);
    else
        (void)snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    pb_put_str(out, number, text);
}

static void
put_member(struct buf *out, const struct group_member_info *m)
{
    struct pb_mark mark = pb_begin(out, 4, 0);

    pb_put_bytes(out, 1, m->from);
    pb_put_varint(out, 4, m->acked);
    pb_put_varint(out, 7, m->buffer - (m->in_flight < m->buffer ? m->in_flight : m->buffer));
    pb_put_varint(out, 8, m->in_flight);
    pb_put_bytes(out, 9, m->name);
    pb_end(out, mark);
}

static void
put_settings(struct buf *out, const struct group_settings *s, bool all)
{
    static const char *const strategies[] = {[GROUP_SINGLE] = "DispatchToSingle",
                                             [GROUP_ROUND_ROBIN] = "RoundRobin",
                                             [GROUP_PINNED] = "Pinned",
                                             [GROUP_CORRELATION] = "PinnedByCorrelation"};

    pb_put_varint(out, 10, s->resolve_links);
    if (s->from == GROUP_END)
        pb_put_str(out, 11, all ? "C:-1/P:-1" : "-1");
    else
        put_text(out, 11, all, s->at);
    pb_put_varint(out, 12, s->message_timeout_ms);
    pb_put_varint(out, 13, s->extra_statistics);
    pb_put_varint(out, 14, s->max_retry_count);
    pb_put_varint(out, 15, s->live_buffer_size);
    pb_put_varint(out, 16, s->history_buffer_size);
    pb_put_varint(out, 17, s->read_batch_size);
    pb_put_varint(out, 18, s->checkpoint_after_ms);
    pb_put_varint(out, 19, s->min_checkpoint_count);
    pb_put_varint(out, 20, s->max_checkpoint_count);
    pb_put_str(out, 26, strategies[s->strategy]);
    pb_put_varint(out, 27, s->max_subscriber_count);
}

static const char *
status_of(const struct group_info *info)
{
    switch (info->state) {
    case GROUP_LIVE:
        return info->replaying ? "Live, ReplayingParkedMessages" : "Live";
    case GROUP_BEHIND:
        return "Behind";
    default:
        return "NotReady";
    }
}

static void
show(void *arg, const struct group_info *info)
{
    struct shown  *shown = arg;
    struct buf    *out = shown->out;
    bool           all = !info->numbers_are_versions;
    struct pb_mark mark = pb_begin(out, 1, 300);

    shown->count++;
    pb_put_bytes(out, 1, info->source);
    pb_put_bytes(out, 2, info->name);
    pb_put_str(out, 3, status_of(info));
    for (uint32_t i = 0; i < info->member_count; i++)
        put_member(out, &info->members[i]);
    pb_put_varint(out, 5, info->settled_per_s);
    pb_put_varint(out, 6, info->acked);
    if (all && info->checkpoint.v != 0)
        put_text(out, 8, true, info->checkpoint.v);
    if (info->next != 0)
        put_text(out, 9, all, all ? info->next : info->next - 1);
    put_settings(out, info->settings, all);
    pb_put_varint(out, 21, info->ready);
    pb_put_varint(out, 23, info->retrying);
    pb_put_varint(out, 24, info->in_flight);
    pb_put_varint(out, 25, info->in_flight);
    pb_put_varint(out, 28, info->parked);
    pb_end(out, mark);
}

static void
get_info(struct rpc *r, struct slice message)
{
    struct group_target target = {0};
    struct shown        shown = {0};
    size_t              mark;
    struct err          err;

    if (!read_target(message, (const unsigned[]){1, 2, 3}, &target, NULL)) {
        grpci_bad(r, "the request is malformed");
        return;
    }
    shown.out = rpc_begin(r, &mark);
    if (group_get(grpci_server(r)->groups, grpci_name(&target.source), grpci_name(&target.name),
                  show, &shown, &err) != 0) {
        rpc_abandon(r, mark);
        grpci_group_fail(r, &err, &target);
        return;
    }
    rpc_commit(r, mark);
    rpc_end(r, RPC_OK, NULL);
}

/* {1 all groups; 2 those of {1 a stream; 2 $all}} */
static bool
read_list(struct slice message, struct grpc_name *source)
{
    struct slice    options;
    struct pb_in    in, within;
    struct pb_field f, g;
    bool            ok = grpci_options(message, &options);

    pb_in_init(&in, options);
    while (ok && pb_next(&in, &f)) {
        if (f.key != PB_BYTES(2))
            continue;
        source->there = true;
        pb_in_init(&within, f.bytes);
        while (ok && pb_next(&within, &g)) {
            if (g.key == PB_BYTES(1))
                ok = grpci_read_name(g.bytes, source);
            else if (g.key == PB_BYTES(2))
                grpci_set_name(source, slice_str("$all"));
        }
        ok = ok && !within.bad;
    }
    return ok && !in.bad && !source->too_long;
}

static void
list_groups(struct rpc *r, struct slice message)
{
    struct group_target target = {0};
    struct shown        shown = {0};
    size_t              mark;

    if (!read_list(message, &target.source)) {
        grpci_bad(r, "the request is malformed");
        return;
    }
    shown.out = rpc_begin(r, &mark);
    group_each(grpci_server(r)->groups, grpci_name(&target.source), show, &shown);
    if (target.source.there && shown.count == 0) {
        rpc_abandon(r, mark);
        grpci_group_refuse(r, RPC_NOT_FOUND, "persistent-subscription-does-not-exist", &target,
                           "the stream has no group");
        return;
    }
    rpc_commit(r, mark);
    rpc_end(r, RPC_OK, NULL);
}

#define METHOD(name, function)                                                                     \
    static const struct rpc_method method_##function = {                                           \
        .path = GRPCI_GROUPS name, .message = (function), .gone = on_gone}

METHOD("Create", create_group);
METHOD("Update", update_group);
METHOD("Delete", delete_group);
METHOD("GetInfo", get_info);
METHOD("List", list_groups);
METHOD("ReplayParked", replay_parked);
METHOD("TruncateParked", truncate_parked);
METHOD("RestartSubsystem", restart_subsystem);

const struct rpc_method *const grpci_group_methods[] = {
    &grpci_group_read,     &method_create_group,    &method_update_group,
    &method_delete_group,  &method_get_info,        &method_list_groups,
    &method_replay_parked, &method_truncate_parked, &method_restart_subsystem,
};
const size_t grpci_group_method_count = sizeof grpci_group_methods / sizeof grpci_group_methods[0];
