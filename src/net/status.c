/* What a status means to the core, and as little of the answer's text as helps a person. */
#include "base/json.h"
#include "net/http.h"

#define SAID_MAX 200

/* The service's own word: the member "error" of a JSON body, one line of printable text. */
static void
read_said(struct slice body, char out[SAID_MAX + 3])
{
    struct slice raw;
    struct buf   text;
    struct err   ignored;
    size_t       n;

    out[0] = '\0';
    buf_init(&text, 4 * SAID_MAX);
    if (json_check(body, &ignored) == 0 && json_get(body, "error", &raw) &&
        json_type(raw) == JSON_STRING && raw.len <= 2 * SAID_MAX &&
        json_string_decode(raw, &text, &ignored) == 0 && !text.failed && text.len > 0) {
        n = text.len < SAID_MAX ? text.len : SAID_MAX;
        while (n < text.len && n > 0 && (text.data[n] & 0xc0) == 0x80)
            n--; /* whole characters only */
        for (size_t i = 0; i < n; i++)
            out[i + 2] = (char)(text.data[i] < ' ' || text.data[i] == 0x7f ? ' ' : text.data[i]);
        out[0] = ':';
        out[1] = ' ';
        out[n + 2] = '\0';
    }
    buf_fini(&text);
}

int
net_status(const struct net_answer *answer, const char *label, bool changes, struct err *err)
{
    char          said[SAID_MAX + 3];
    int           status = answer->status, code = E_REMOTE;
    enum err_kind kind = ERR_RETRY;

    if (status >= 200 && status < 300)
        return 0;
    if (status == 401 || status == 407)
        code = E_AUTH;
    else if (changes && (status == 502 || status == 504))
        kind = ERR_UNSURE;
    else if (status >= 400 && status < 500 && status != 408 && status != 425 && status != 429) {
        code = E_REJECTED;
        kind = ERR_DATA;
    }
    read_said(answer->body, said);
    (void)err_set(err, __FILE__, __LINE__, code, kind, "%s: status %d%s%s", label, status,
                  status >= 300 && status < 400 ? " (redirects are not followed)" : "", said);
    if (err != NULL && kind == ERR_RETRY)
        err->retry_ms = answer->retry_ms;
    return code;
}
