/* Planned misbehaviour, for tests of whoever calls this service. */
#include "ful.h"
#include <pthread.h>
#include <string.h>

static const char *const mode_names[] = {"none",    "500",           "500-after", "slow",
                                         "garbage", "close-halfway", "422"};
static const char *const target_names[] = {"orders", "writes", "changes", "epoch", "all"};

#define MODES (sizeof(mode_names) / sizeof(mode_names[0]))
#define TARGETS (sizeof(target_names) / sizeof(target_names[0]))

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static size_t          mode, target;
static int64_t         left, delay; /* left: -1 is without end */

static bool
find_name(const char *const *names, size_t count, const char *name, size_t *out)
{
    for (size_t i = 0; name != NULL && i < count; i++) {
        if (strcmp(names[i], name) == 0) {
            *out = i;
            return true;
        }
    }
    return false;
}

static bool
take_count(const json_t *body, const char *name, int64_t max, int64_t otherwise, int64_t *out)
{
    const json_t *value = json_object_get(body, name);

    *out = otherwise;
    if (value == NULL)
        return true;
    if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) > max)
        return false;
    *out = json_integer_value(value);
    return true;
}

const char *
ful_fault_set(const json_t *body)
{
    const json_t *on = json_object_get(body, "on");
    size_t        new_mode, new_target = 0;
    int64_t       new_left, new_delay;

    if (!find_name(mode_names, MODES, json_string_value(json_object_get(body, "mode")), &new_mode))
        return "mode: must be none, 500, 500-after, slow, garbage, close-halfway or 422";
    if (on != NULL && !find_name(target_names, TARGETS, json_string_value(on), &new_target))
        return "on: must be orders, writes, changes, epoch or all";
    if (!take_count(body, "count", 1000000000, -1, &new_left))
        return "count: must be 0 to 1000000000";
    if (!take_count(body, "delay_ms", 60000, 0, &new_delay))
        return "delay_ms: must be 0 to 60000";
    (void)pthread_mutex_lock(&lock);
    mode = new_mode;
    target = new_target;
    left = new_left;
    delay = new_delay;
    (void)pthread_mutex_unlock(&lock);
    return NULL;
}

static bool
is_under(const char *url, const char *prefix)
{
    return strncmp(url, prefix, strlen(prefix)) == 0;
}

static bool
is_target(const char *method, const char *url)
{
    bool orders = is_under(url, "/orders");

    switch (target) {
    case 0:
        return orders;
    case 1:
        return orders && strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0;
    case 2:
        return is_under(url, "/changes");
    case 3:
        return is_under(url, "/epoch");
    default:
        return !is_under(url, "/fault") && !is_under(url, "/health");
    }
}

enum ful_fault
ful_fault_take(const char *method, const char *url, int64_t *delay_ms)
{
    enum ful_fault taken = FUL_FAULT_NONE;

    (void)pthread_mutex_lock(&lock);
    if (mode != FUL_FAULT_NONE && left != 0 && is_target(method, url)) {
        taken = (enum ful_fault)mode;
        *delay_ms = delay;
        if (left > 0)
            left--;
    }
    (void)pthread_mutex_unlock(&lock);
    return taken;
}

json_t *
ful_fault_json(void)
{
    json_t *out;

    (void)pthread_mutex_lock(&lock);
    out = json_pack("{s:s, s:s, s:I, s:I}", "mode", mode_names[mode], "on", target_names[target],
                    "left", (json_int_t)left, "delay_ms", (json_int_t)delay);
    (void)pthread_mutex_unlock(&lock);
    return out;
}
