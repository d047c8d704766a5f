/* A scavenge as an object of JSON: one text for the command line, HTTP and the log of lines. */
#include "base/json.h"
#include "base/must.h"
#include "base/rfc3339.h"
#include "log/log.h"

const char *
log_scavenge_state_name(enum log_scavenge_state state)
{
    static const char *const names[] = {"none", "running", "done", "stopped", "failed"};

    must((size_t)state < sizeof names / sizeof names[0]);
    return names[state];
}

static void
put_time(struct json_out *o, const char *key, int64_t us)
{
    char text[TIME_TEXT_MAX];

    json_out_key(o, key);
    if (us == 0) {
        json_out_null(o);
        return;
    }
    time_format(us, text);
    json_out_str(o, text);
}

void
log_scavenge_json(const struct log_scavenge *s, struct buf *out)
{
    const struct {
        const char *name;
        uint64_t    value;
    } numbers[] = {{"run", s->run},
                   {"segments", s->segments},
                   {"segments_examined", s->examined},
                   {"segments_rewritten", s->rewritten},
                   {"all_bytes", s->all_bytes},
                   {"examined_bytes", s->examined_bytes},
                   {"freed_bytes", s->freed_bytes},
                   {"written_bytes", s->written_bytes},
                   {"events", s->events},
                   {"records", s->records},
                   {"bytes_per_s", s->bytes_per_s},
                   {"position", s->pos.v},
                   {"resumed_at", s->resumed_at.v}};
    struct json_out o;

    json_out_init(&o, out);
    json_out_object(&o);
    json_out_key(&o, "state");
    json_out_str(&o, log_scavenge_state_name(s->state));
    json_out_key(&o, "dry_run");
    json_out_bool(&o, s->dry_run);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        json_out_key(&o, numbers[i].name);
        json_out_u64(&o, numbers[i].value);
    }
    put_time(&o, "started", s->started_us);
    put_time(&o, "ended", s->ended_us);
    json_out_key(&o, "error");
    json_out_str(&o, s->error[0] == '\0' ? NULL : s->error);
    json_out_object_end(&o);
}
