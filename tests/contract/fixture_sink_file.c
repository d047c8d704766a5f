/* The sink file: the last line of each stream's is its row. */
#include <stdio.h>
#include <stdlib.h>

#include "base/conf.h"
#include "base/json.h"
#include "contract.h"
#include "env/env_real.h"
#include "sink/file/file.h"

#define LINE_MAX_BYTES 8192

struct world {
    char        *folder, path[256];
    struct conf *conf;
};

static void *
setup(void)
{
    struct world *w = calloc(1, sizeof *w);

    assert_non_null(w);
    w->folder = contract_folder();
    (void)snprintf(w->path, sizeof w->path, "%s/out.ndjson", w->folder);
    w->conf = contract_conf(sink_file_ops.schema, "path: %s\nmessage_max: 64KiB\n", w->path);
    return w;
}

static void
teardown(void *world)
{
    struct world *w = world;

    conf_free(w->conf);
    contract_folder_remove(w->folder);
    free(w);
}

static struct sink *
open_one(void *world)
{
    struct world *w = world;
    struct sink  *s;
    struct err    err;

    contract_ok(sink_new(env_real(), &sink_file_ops, "out", w->conf, &s, &err), &err);
    return s;
}

static void
state(void *world, struct fold *out)
{
    struct world *w = world;
    FILE         *f = fopen(w->path, "r");
    char          line[LINE_MAX_BYTES];

    assert_non_null(f);
    while (fgets(line, sizeof line, f) != NULL) {
        struct slice subject, type, data = {0}, whole = slice_str(line);

        assert_true(json_get(whole, "subject", &subject));
        assert_true(json_get(whole, "type", &type));
        (void)json_get(whole, "data", &data);
        /* Without the quotes and what stands before the key. */
        contract_fold_message(out, slice_of((const char *)subject.data + 3, subject.len - 4),
                              slice_of((const char *)type.data + 1, type.len - 2), data);
    }
    (void)fclose(f);
}

const struct sink_fixture sink_fixture_file = {
    .name = "file", .setup = setup, .teardown = teardown, .open = open_one, .state = state};
