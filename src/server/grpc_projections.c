/*
 * Projections: the five that every KurrentDB has. Four of them are native reads of the index here,
 * always there and never behind what they say; the other one is not kept. Nobody's own queries are
 * run.
 */
#include <stdio.h>

#include "server/grpc_int.h"

#define PROJECTIONS "/event_store.client.projections.Projections/"

static const struct projection {
    const char *name;
    bool        native;
} projections[] = {
    {"$by_category", true},        {"$by_event_type", true},      {"$streams", true},
    {"$by_correlation_id", false}, {"$stream_by_category", true},
};

#define COUNT (sizeof projections / sizeof projections[0])
#define NOT_KEPT "this projection's streams are not kept here"

/* {1 options {`number` name}}. NULL: the call was ended. */
static const struct projection *
find(struct rpc *r, struct slice message)
{
    struct slice    options, name = {0};
    struct pb_in    in;
    struct pb_field f;
    bool            ok = grpci_options(message, &options);

    pb_in_init(&in, options);
    while (pb_next(&in, &f))
        if (f.key == PB_BYTES(1))
            name = f.bytes;
    if (!ok || in.bad) {
        grpci_bad(r, "the request is malformed");
        return NULL;
    }
    for (size_t i = 0; i < COUNT; i++)
        if (slice_is(name, projections[i].name))
            return &projections[i];
    rpc_end(r, RPC_NOT_FOUND, "there is no such projection");
    return NULL;
}

/* What is there already, or cannot be. */
static void
enable(struct rpc *r, struct slice message)
{
    const struct projection *p = find(r, message);

    if (p != NULL && p->native)
        grpci_answer(r, (struct slice){0});
    else if (p != NULL)
        rpc_end(r, RPC_FAILED_PRECONDITION, NOT_KEPT);
}

static void
disable(struct rpc *r, struct slice message)
{
    const struct projection *p = find(r, message);

    if (p != NULL && p->native)
        rpc_end(r, RPC_FAILED_PRECONDITION,
                "this projection is a read of the index and cannot be switched off");
    else if (p != NULL)
        grpci_answer(r, (struct slice){0});
}

static void
refuse_change(struct rpc *r, struct slice message)
{
    if (find(r, message) != NULL)
        rpc_end(r, RPC_FAILED_PRECONDITION, "a system projection cannot be changed or deleted");
}

static void
refuse_create(struct rpc *r, struct slice message)
{
    rpc_end(r, RPC_UNIMPLEMENTED, "queries in JavaScript are not run here");
}

/* State and Result: a projection that only links has an empty one. */
static void
show_state(struct rpc *r, struct slice message)
{
    size_t         mark;
    struct buf    *out;
    struct pb_mark value;

    if (find(r, message) == NULL)
        return;
    out = rpc_begin(r, &mark);
    value = pb_begin(out, 1, 2);
    pb_put_empty(out, 5);
    pb_end(out, value);
    rpc_commit(r, mark);
    rpc_end(r, RPC_OK, NULL);
}

static void
do_nothing(struct rpc *r, struct slice message)
{
    grpci_answer(r, (struct slice){0});
}

static void
put_details(struct rpc *r, const struct projection *p, const struct log_info *info)
{
    size_t         mark;
    struct buf    *out = rpc_begin(r, &mark);
    struct pb_mark within = pb_begin(out, 1, 200);
    char           place[64] = "";
    bool           all = info->end.v == 0 || info->indexed.v >= info->end.v;

    if (p->native)
        (void)snprintf(place, sizeof place, "C:%llu/P:%llu", (unsigned long long)info->indexed.v,
                       (unsigned long long)info->indexed.v);
    pb_put_str(out, 4, p->name);
    pb_put_str(out, 8, p->native ? "Running" : "Stopped");
    pb_put_str(out, 9, p->native ? "" : NOT_KEPT);
    pb_put_str(out, 10, p->name);
    pb_put_str(out, 11, "Continuous");
    pb_put_str(out, 12, place);
    pb_put_float(out, 13,
                 !p->native ? -1
                 : all      ? 100
                            : (float)info->indexed.v / (float)info->end.v * 100);
    pb_put_str(out, 14, place);
    pb_end(out, within);
    rpc_commit(r, mark);
}

/* {1 options {1 name; 2 all; 3 transient; 4 continuous; 5 one time}} */
static void
statistics(struct rpc *r, struct slice message)
{
    struct log_info info;
    struct slice    options;
    struct pb_in    in;
    struct pb_field f = {0};

    if (!grpci_options(message, &options)) {
        grpci_bad(r, "the request is malformed");
        return;
    }
    log_get_info(grpci_server(r)->log, &info);
    pb_in_init(&in, options);
    while (pb_next(&in, &f) && (f.key < PB_BYTES(1) || f.key > PB_BYTES(5)))
        ;
    if (in.bad || f.key < PB_BYTES(1) || f.key > PB_BYTES(5)) {
        grpci_bad(r, "neither a name nor a kind of projections is asked for");
    } else if (f.key == PB_BYTES(1)) {
        const struct projection *p = find(r, message);

        if (p == NULL)
            return;
        put_details(r, p, &info);
    } else if (f.key == PB_BYTES(2) || f.key == PB_BYTES(4)) {
        for (size_t i = 0; i < COUNT; i++)
            put_details(r, &projections[i], &info);
    }
    rpc_end(r, RPC_OK, NULL);
}

static const struct rpc_method table[] = {
    {.path = PROJECTIONS "Statistics", .message = statistics},
    {.path = PROJECTIONS "Enable", .message = enable},
    {.path = PROJECTIONS "Disable", .message = disable},
    {.path = PROJECTIONS "State", .message = show_state},
    {.path = PROJECTIONS "Result", .message = show_state},
    {.path = PROJECTIONS "Reset", .message = enable},
    {.path = PROJECTIONS "Update", .message = refuse_change},
    {.path = PROJECTIONS "Delete", .message = refuse_change},
    {.path = PROJECTIONS "Create", .message = refuse_create},
    {.path = PROJECTIONS "RestartSubsystem", .message = do_nothing},
};
const struct rpc_table grpci_projections = {table, sizeof table / sizeof table[0]};
