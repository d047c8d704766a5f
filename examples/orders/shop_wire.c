/* HTTP calls: one libcurl handle per thread, connections kept. */
#include "shop.h"
#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define ANSWER_MAX (256 * 1024)

struct wire {
    CURL  *curl;
    char  *text;
    size_t used;
    bool   no_cache;
};

struct wire *
wire_new(void)
{
    struct wire *w = calloc(1, sizeof(*w));

    if (w == NULL)
        return NULL;
    w->curl = curl_easy_init();
    w->text = malloc(ANSWER_MAX + 1);
    if (w->curl != NULL && w->text != NULL)
        return w;
    wire_free(w);
    return NULL;
}

void
wire_free(struct wire *w)
{
    if (w == NULL)
        return;
    curl_easy_cleanup(w->curl);
    free(w->text);
    free(w);
}

static size_t
on_data(char *data, size_t size, size_t count, void *cls)
{
    struct wire *w = cls;
    size_t       n = size * count;

    if (n > ANSWER_MAX - w->used)
        return 0;
    memcpy(w->text + w->used, data, n);
    w->used += n;
    return n;
}

static size_t
on_header(char *data, size_t size, size_t count, void *cls)
{
    static const char name[] = "cache-control:";
    struct wire      *w = cls;
    size_t            n = size * count;
    size_t            len = sizeof(name) - 1;

    if (n > len && strncasecmp(data, name, len) == 0)
        w->no_cache = memmem(data, n, "no-store", 8) != NULL ||
                      memmem(data, n, "no-cache", 8) != NULL ||
                      memmem(data, n, "max-age=0", 9) != NULL;
    return n;
}

static struct curl_slist *
make_headers(const char *head1, const char *head2, bool has_body)
{
    struct curl_slist *list = curl_slist_append(NULL, "Accept: application/json");

    if (head1 != NULL)
        list = curl_slist_append(list, head1);
    if (head2 != NULL)
        list = curl_slist_append(list, head2);
    if (has_body)
        list = curl_slist_append(list, "Content-Type: application/json");
    return list;
}

long
wire_call(struct wire *w, const char *method, const char *url, const char *head1, const char *head2,
          const char *body, long timeout_ms)
{
    struct curl_slist *headers = make_headers(head1, head2, body != NULL);
    long               status = 0;

    w->used = 0;
    w->no_cache = false;
    curl_easy_reset(w->curl);
    (void)curl_easy_setopt(w->curl, CURLOPT_URL, url);
    (void)curl_easy_setopt(w->curl, CURLOPT_CUSTOMREQUEST, method);
    (void)curl_easy_setopt(w->curl, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(w->curl, CURLOPT_NOPROXY, "*");
    (void)curl_easy_setopt(w->curl, CURLOPT_CONNECTTIMEOUT_MS, 1000L);
    (void)curl_easy_setopt(w->curl, CURLOPT_TIMEOUT_MS, timeout_ms);
    (void)curl_easy_setopt(w->curl, CURLOPT_HTTPHEADER, headers);
    (void)curl_easy_setopt(w->curl, CURLOPT_WRITEFUNCTION, on_data);
    (void)curl_easy_setopt(w->curl, CURLOPT_WRITEDATA, w);
    (void)curl_easy_setopt(w->curl, CURLOPT_HEADERFUNCTION, on_header);
    (void)curl_easy_setopt(w->curl, CURLOPT_HEADERDATA, w);
    if (body != NULL)
        (void)curl_easy_setopt(w->curl, CURLOPT_POSTFIELDS, body);
    if (curl_easy_perform(w->curl) == CURLE_OK)
        (void)curl_easy_getinfo(w->curl, CURLINFO_RESPONSE_CODE, &status);
    curl_slist_free_all(headers);
    w->text[w->used] = '\0';
    return status;
}

const char *
wire_text(const struct wire *w)
{
    return w->text;
}

bool
wire_may_cache(const struct wire *w)
{
    return !w->no_cache;
}
