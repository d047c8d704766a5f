/* stream delete|tombstone|truncate|close|open|metadata|link: what changes a stream. */
#include <string.h>

#include "base/json.h"
#include "cli/cli_int.h"
#include "log/log.h"

#define LINKS_MAX 1000

bool
clii_is_native(const char *stream)
{
    return strcmp(stream, "$streams") == 0 || strncmp(stream, "$ce-", 4) == 0 ||
           strncmp(stream, "$et-", 4) == 0;
}

/* What --expect says, or else what is preset. */
static int
read_expect(const struct cli *c, int64_t preset, int64_t *expected, struct err *err)
{
    *expected = preset;
    if (c->opt[OPT_EXPECT] == NULL || clii_expected_read(slice_str(c->opt[OPT_EXPECT]), expected))
        return 0;
    RETURN_ERR(err, E_USAGE, ERR_DATA, "--expect %s: must be any, no-stream, exists or a version",
               c->opt[OPT_EXPECT]);
}

static void
say_done(struct cli *c, const char *what, uint64_t position)
{
    struct buf line = {0};

    if (clii_json(c)) {
        clii_printf(c, "{\"position\":%llu}\n", (unsigned long long)position);
        return;
    }
    clii_add_plain(&line, slice_str(c->args[0]));
    buf_printf(&line, " %s at position %llu\n", what, (unsigned long long)position);
    clii_put_buf(c, &line);
    buf_fini(&line);
}

static int
make_change(struct cli *c, struct cli_change *change, const char *what, struct err *err)
{
    struct cli_place *place = NULL;
    uint64_t          position = 0;
    int               rc = 0;

    change->stream = c->args[0];
    /* Without an expected version it has to be there: a name may be mistyped. */
    TRY(read_expect(c, LOG_EXISTS, &change->expected, err));
    change->unnamed_version = c->opt[OPT_EXPECT] == NULL;
    TRY(log_name_check(slice_str(change->stream), false, err));
    TRY(clii_place_open(c, true, &place, err));
    rc = place->ops->change(place, change, &position, err);
    if (rc == 0)
        say_done(c, what, position);
    else
        err_prefix(err, "%s", change->stream);
out:
    clii_place_close(place);
    return rc;
}

int
clii_stream_delete(struct cli *c, struct err *err)
{
    return make_change(c, &(struct cli_change){.what = LOG_SET_DELETED}, "deleted", err);
}

int
clii_stream_tombstone(struct cli *c, struct err *err)
{
    return make_change(c, &(struct cli_change){.what = LOG_SET_TOMBSTONE}, "deleted for good", err);
}

int
clii_stream_close(struct cli *c, struct err *err)
{
    return make_change(c, &(struct cli_change){.what = LOG_SET_CLOSED}, "closed", err);
}

int
clii_stream_open(struct cli *c, struct err *err)
{
    return make_change(c, &(struct cli_change){.what = LOG_SET_OPEN}, "open again", err);
}

int
clii_stream_truncate(struct cli *c, struct err *err)
{
    struct cli_change change = {.what = LOG_SET_TRUNCATE};

    if (!json_uint64(slice_str(c->args[1]), &change.truncate) || change.truncate > INT64_MAX)
        RETURN_ERR(err, E_USAGE, ERR_DATA, "%s: must be a version: the first that stays",
                   c->args[1]);
    return make_change(c, &change, "truncated", err);
}

/* metadata */

static int
get_metadata(struct cli *c, struct err *err)
{
    struct cli_place *place = NULL;
    struct buf        object = {0};
    int               rc = 0;

    TRY(clii_place_open(c, false, &place, err));
    rc = place->ops->metadata(place, c->args[0], &object, err);
    if (rc != 0) {
        err_prefix(err, "%s", c->args[0]);
        goto out;
    }
    while (object.len > 0 && object.data[object.len - 1] == '\n')
        object.len--;
    buf_add_byte(&object, '\n');
    clii_put_buf(c, &object);
out:
    clii_place_close(place);
    buf_fini(&object);
    return rc;
}

static int
set_metadata(struct cli *c, struct err *err)
{
    struct cli_place   *place = NULL;
    struct cli_appended done;
    struct log_meta     meta;
    struct slice        json = slice_str(c->args[1]);
    int64_t             expected;
    int                 rc = 0;

    TRY(read_expect(c, LOG_ANY, &expected, err));
    TRY(log_name_check(slice_str(c->args[0]), false, err));
    TRY(log_meta_parse(json, &meta, err));
    TRY(clii_place_open(c, true, &place, err));
    rc = place->ops->set_metadata(place, c->args[0], expected, json, &done, err);
    if (rc != 0)
        err_prefix(err, "%s", c->args[0]);
    else if (clii_json(c))
        clii_printf(c, "{\"position\":%llu,\"version\":%llu}\n", (unsigned long long)done.position,
                    (unsigned long long)done.last_version);
    else
        say_done(c, "has new metadata", done.position);
out:
    clii_place_close(place);
    return rc;
}

int
clii_stream_metadata(struct cli *c, struct err *err)
{
    return c->arg_count > 1 ? set_metadata(c, err) : get_metadata(c, err);
}

/* links */

static int
check_link(const char *link, struct err *err)
{
    const char *at = strchr(link, '@');
    uint64_t    version;

    if (at == NULL || !json_uint64(slice_of(link, (size_t)(at - link)), &version) ||
        version > INT64_MAX)
        RETURN_ERR(err, E_USAGE, ERR_DATA, "%s: must be VERSION@STREAM", link);
    return log_name_check(slice_str(at + 1), true, err);
}

int
clii_stream_link(struct cli *c, struct err *err)
{
    struct log_new_event events[LINKS_MAX] = {0};
    struct cli_batch     batch = {.events = events};
    struct cli_place    *place = NULL;
    struct cli_appended  done;
    struct buf           lines = {0};
    int64_t              expected;
    int                  rc = 0;

    if (c->opt[OPT_TO] != NULL || c->opt[OPT_TRANSFORM] != NULL)
        return clii_surgery_begin(c, err);
    if (c->arg_count < 2)
        FAIL(err, E_USAGE, ERR_DATA,
             "what it is to link to: --to NAME for all of its events, or VERSION@STREAM");
    TRY(read_expect(c, LOG_ANY, &expected, err));
    TRY(log_name_check(slice_str(c->args[0]), false, err));
    for (unsigned i = 1; i < c->arg_count; i++) {
        TRY(check_link(c->args[i], err));
        events[batch.count++] = (struct log_new_event){
            .type = slice_str("$>"), .data = slice_str(c->args[i]), .flags = LOG_LINK};
        buf_add_str(&lines, "{\"type\":\"$>\",\"data\":");
        json_put_str(&lines, c->args[i]);
        buf_add_str(&lines, "}\n");
    }
    batch.lines = buf_slice(&lines);
    TRY(clii_place_open(c, true, &place, err));
    rc = place->ops->append(place, c->args[0], expected, &batch, &done, err);
    if (rc != 0)
        err_prefix(err, "%s", c->args[0]);
    else if (clii_json(c))
        clii_printf(c, "{\"position\":%llu,\"first_version\":%llu,\"last_version\":%llu}\n",
                    (unsigned long long)done.position, (unsigned long long)done.first_version,
                    (unsigned long long)done.last_version);
    else
        say_done(c, batch.count == 1 ? "has a new link" : "has new links", done.position);
out:
    clii_place_close(place);
    buf_fini(&lines);
    return rc;
}
