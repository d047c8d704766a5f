/* subject list|show|erase: on a folder and at a server. */
#include "subject/subject.h"
#include "base/json.h"
#include "base/must.h"
#include "base/rfc3339.h"
#include "cli/cli_int.h"
#include "core/erase.h"
#include "log/log.h"

void
clii_subject_json(struct json_out *o, const struct subject_key *key)
{
    char id[ID_TEXT_LEN + 1], created[TIME_TEXT_MAX], erased[TIME_TEXT_MAX];

    id_format(&key->id, id);
    time_format(key->created_us, created);
    time_format(key->erased_us, erased);
    json_out_object(o);
    json_out_key(o, "subject");
    json_out_string(o, key->name);
    json_out_key(o, "key");
    json_out_str(o, id);
    json_out_key(o, "created");
    json_out_str(o, created);
    json_out_key(o, "erased");
    json_out_str(o, key->erased_us == 0 ? NULL : erased);
    json_out_object_end(o);
}

/* A line of the list: JSON, or a row. */
static void
put_subject(struct cli *c, struct slice object)
{
    struct json_field f[] = {{.name = "subject"}, {.name = "created"}, {.name = "erased"}};
    struct buf        line = {0}, scratch = {0};

    if (clii_json(c) || !c->out_tty || json_pick(object, f, 3, JSON_PICK_ANY, NULL) != 0) {
        clii_put(c, object.data, object.len);
        clii_put(c, "\n", 1);
        return;
    }
    for (int i = 0; i < 3; i++) {
        size_t from = line.len;

        if (json_type(f[i].value) == JSON_STRING &&
            json_string_view(f[i].value, &scratch, &f[i].value, NULL) == 0)
            clii_add_plain(&line, f[i].value);
        else
            buf_add_byte(&line, '-');
        while (line.len - from < (i == 0 ? 32U : 28U))
            buf_add_byte(&line, ' ');
        buf_add_str(&line, "  ");
    }
    buf_add_byte(&line, '\n');
    clii_put_buf(c, &line);
    buf_fini(&line);
    buf_fini(&scratch);
}

static int
list_key(void *arg, const struct subject_key *key, struct err *err)
{
    struct buf      line = {0};
    struct json_out o;

    json_out_init(&o, &line);
    clii_subject_json(&o, key);
    put_subject(arg, buf_slice(&line));
    buf_fini(&line);
    return 0;
}

static int
list_remote(struct cli *c, struct err *err)
{
    struct buf       body = {0};
    struct json_iter it;
    struct slice     all, object;
    int              rc;

    TRY(clii_request(c, "GET", "/v1/subjects", (struct slice){0}, &body, err));
    if (!json_get(buf_slice(&body), "subjects", &all))
        FAIL(err, E_REMOTE, ERR_DATA, "the server's answer is not one of Oxbow's");
    TRY(json_array_iter(&it, all, err));
    while ((rc = json_iter_next(&it, NULL, &object, err)) == 0)
        put_subject(c, object);
    if (rc == E_END)
        rc = 0;
out:
    buf_fini(&body);
    return rc;
}

int
clii_subject_list(struct cli *c, struct err *err)
{
    struct ox_subjects   *subjects = NULL;
    struct subject_counts counts;
    int                   rc = 0;

    if (clii_server(c) != NULL)
        return list_remote(c, err);
    c->opening = true;
    TRY(clii_keys_open(c, false, NULL, NULL, &subjects, err));
    c->opening = false;
    TRY(subject_each(subjects, slice_of(NULL, 0), list_key, c, err));
    subject_count(subjects, &counts);
    if (counts.damaged > 0)
        FAIL(err, E_DAMAGED, ERR_FATAL,
             "%llu records of the keystore cannot be read: what was sealed under their keys stays "
             "unreadable unless a copy of the keystore has them",
             (unsigned long long)counts.damaged);
out:
    subject_close(subjects);
    return rc;
}

static int
run_remote(struct cli *c, bool erase, struct cli_bar *bar, struct buf *result, struct err *err)
{
    struct buf      body = {0};
    struct json_out o;
    int             rc;

    json_out_init(&o, &body);
    json_out_object(&o);
    json_out_key(&o, "subject");
    json_out_str(&o, c->args[0]);
    if (c->opt[OPT_STREAMS] != NULL) {
        json_out_key(&o, "streams");
        json_out_str(&o, c->opt[OPT_STREAMS]);
    }
    json_out_object_end(&o);
    rc =
        clii_job(c, erase ? "subjects/erase" : "subjects/show", buf_slice(&body), bar, result, err);
    buf_fini(&body);
    return rc;
}

static int
run_folder(struct cli *c, bool erase, struct cli_bar *bar, struct buf *result, struct err *err)
{
    struct erase_report report = {0};
    struct log         *log = NULL;
    struct slice        subject = slice_str(c->args[0]);
    int                 rc;

    c->opening = true;
    TRY(clii_log_open(c, erase, &log, err));
    c->opening = false;
    if (erase)
        rc = erase_subject(log, c->subjects, subject, slice_str(c->opt[OPT_STREAMS]), clii_bar_step,
                           bar, &report, err);
    else
        rc = erase_look(log, c->subjects, subject, clii_bar_step, bar, &report, err);
    if (rc == E_INTERRUPTED)
        (void)clii_go_on(err);
    if (rc == 0)
        erase_report_json(&report, subject, result);
out:
    erase_report_fini(&report);
    clii_log_close(c, log);
    return rc;
}

static int
run(struct cli *c, bool erase, struct err *err)
{
    struct buf     result = {0};
    struct cli_bar bar;
    int            rc;

    clii_bar_init(&bar, c, erase ? "erase" : "show");
    TRY(subject_name_check(slice_str(c->args[0]), err));
    if (clii_server(c) != NULL)
        TRY(run_remote(c, erase, &bar, &result, err));
    else
        TRY(run_folder(c, erase, &bar, &result, err));
    clii_put_result(c, &result);
out:
    clii_progress_end(c);
    buf_fini(&result);
    return rc;
}

int
clii_subject_show(struct cli *c, struct err *err)
{
    return run(c, false, err);
}

int
clii_subject_erase(struct cli *c, struct err *err)
{
    return run(c, true, err);
}
