/* What a group is and has, as JSON: the same for every front. */
#include "base/json.h"
#include "base/must.h"
#include "core/group.h"

static const char *const states[] = {[GROUP_LOADING] = "loading",
                                     [GROUP_BEHIND] = "behind",
                                     [GROUP_LIVE] = "live",
                                     [GROUP_FAILED] = "failed"};

static void
put_u64(struct json_out *o, const char *key, uint64_t v)
{
    json_out_key(o, key);
    json_out_u64(o, v);
}

static void
put_slice(struct json_out *o, const char *key, struct slice text)
{
    json_out_key(o, key);
    json_out_string(o, text);
}

static void
put_members(struct json_out *o, const struct group_info *g)
{
    json_out_key(o, "members");
    json_out_array(o);
    for (uint32_t i = 0; i < g->member_count; i++) {
        const struct group_member_info *m = &g->members[i];

        json_out_object(o);
        put_slice(o, "name", m->name);
        json_out_key(o, "pull");
        json_out_bool(o, m->pull);
        put_u64(o, "buffer", m->buffer);
        put_u64(o, "in_flight", m->in_flight);
        put_u64(o, "delivered", m->delivered);
        put_u64(o, "acked", m->acked);
        put_u64(o, "joined_ms", m->joined_ms);
        json_out_object_end(o);
    }
    json_out_array_end(o);
}

static void
put_state(struct json_out *o, const struct group_info *g)
{
    must(g->state < sizeof states / sizeof states[0]);
    put_slice(o, "stream", g->source);
    put_slice(o, "group", g->name);
    json_out_key(o, "state");
    json_out_str(o, states[g->state]);
    json_out_key(o, "strategy");
    json_out_str(o, group_strategy_name(g->settings->strategy));
    put_u64(o, "member_count", g->member_count);
    put_u64(o, "in_flight", g->in_flight);
    put_u64(o, "lag_events", g->lag_events);
    put_u64(o, "lag_positions", g->lag_positions);
    put_u64(o, "lag_ms", g->lag_ms);
    put_u64(o, "parked", g->parked);
    json_out_key(o, "error");
    json_out_str(o, g->error);
}

static void
put_whole(struct json_out *o, const struct group_info *g)
{
    put_state(o, g);
    put_u64(o, "ready", g->ready);
    put_u64(o, "waiting", g->waiting);
    put_u64(o, "retrying", g->retrying);
    json_out_key(o, "replaying");
    json_out_bool(o, g->replaying);
    put_u64(o, "delivered", g->delivered);
    put_u64(o, "acked", g->acked);
    put_u64(o, "retries", g->retries);
    put_u64(o, "timeouts", g->timeouts);
    put_u64(o, "skipped", g->skipped);
    put_u64(o, "settled_per_s", g->settled_per_s);
    put_u64(o, "done", g->done.v);
    put_u64(o, "checkpoint", g->checkpoint.v);
    put_u64(o, g->numbers_are_versions ? "next_version" : "next_position", g->next);
    put_u64(o, "end", g->end.v);
    put_members(o, g);
    json_out_key(o, "settings");
    json_out_object(o);
    group_settings_write(g->settings, o);
    json_out_object_end(o);
}

void
group_info_write(const struct group_info *g, bool whole, struct json_out *o)
{
    json_out_object(o);
    if (whole)
        put_whole(o, g);
    else
        put_state(o, g);
    json_out_object_end(o);
}

void
group_parked_write(const struct log_event *link, struct json_out *o)
{
    struct json_iter it;
    struct slice     key, value;

    json_out_object(o);
    put_u64(o, "number", link->version);
    if (json_check(link->meta, NULL) == 0 && json_object_iter(&it, link->meta, NULL) == 0) {
        while (json_iter_next(&it, &key, &value, NULL) == 0) {
            json_out_key_slice(o, key);
            json_out_raw(o, value);
        }
    }
    json_out_object_end(o);
}
