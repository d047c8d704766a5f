#include "base/rfc3339.h"

#define DAY_US INT64_C(86400000000)

/* Days since 1970-01-01 of a proleptic Gregorian date. */
static int64_t
days_of(int64_t y, int64_t m, int64_t d)
{
    int64_t era, yoe, doy;

    y -= m <= 2;
    era = (y >= 0 ? y : y - 399) / 400;
    yoe = y - era * 400;
    doy = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
    return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

static void
date_of(int64_t days, int64_t *y, int64_t *m, int64_t *d)
{
    int64_t era, doe, yoe, doy, mp;

    days += 719468;
    era = (days >= 0 ? days : days - 146096) / 146097;
    doe = days - era * 146097;
    yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    mp = (5 * doy + 2) / 153;
    *d = doy - (153 * mp + 2) / 5 + 1;
    *m = mp < 10 ? mp + 3 : mp - 9;
    *y = yoe + era * 400 + (*m <= 2);
}

/* Zeros in front, and `end` behind. */
static char *
put_digits(char *out, int n, int64_t v, char end)
{
    for (int i = n; i-- > 0; v /= 10)
        out[i] = (char)('0' + v % 10);
    out[n] = end;
    return out + n + 1;
}

void
time_format(int64_t us, char out[TIME_TEXT_MAX])
{
    const int64_t min = days_of(0, 1, 1) * DAY_US, max = days_of(10000, 1, 1) * DAY_US - 1;
    int64_t       y, m, d, days, rest;

    if (us < min)
        us = min;
    if (us > max)
        us = max;
    days = us / DAY_US;
    rest = us % DAY_US;
    if (rest < 0) {
        rest += DAY_US;
        days--;
    }
    date_of(days, &y, &m, &d);
    /* By hand: it is written for each event that is read. */
    out = put_digits(out, 4, y, '-');
    out = put_digits(out, 2, m, '-');
    out = put_digits(out, 2, d, 'T');
    out = put_digits(out, 2, rest / INT64_C(3600000000), ':');
    out = put_digits(out, 2, rest / 60000000 % 60, ':');
    out = put_digits(out, 2, rest / 1000000 % 60, '.');
    out = put_digits(out, 6, rest % 1000000, 'Z');
    *out = '\0';
}

struct scan {
    const char *p, *end;
};

static bool
digits(struct scan *s, int n, int64_t max, int64_t *out)
{
    int64_t v = 0;

    for (int i = 0; i < n; i++, s->p++) {
        if (s->p == s->end || *s->p < '0' || *s->p > '9')
            return false;
        v = v * 10 + (*s->p - '0');
    }
    *out = v;
    return v <= max;
}

static bool
one_of(struct scan *s, const char *set)
{
    if (s->p == s->end || *s->p == '\0' || strchr(set, *s->p) == NULL)
        return false;
    s->p++;
    return true;
}

static bool
fraction(struct scan *s, int64_t *us)
{
    int64_t unit = 100000;
    int     n = 0;

    *us = 0;
    if (!one_of(s, "."))
        return true;
    for (; s->p < s->end && *s->p >= '0' && *s->p <= '9'; s->p++, n++) {
        *us += (*s->p - '0') * unit;
        unit /= 10;
    }
    return n > 0;
}

static bool
zone(struct scan *s, int64_t *offset_us)
{
    int64_t h, m;
    int     sign;

    *offset_us = 0;
    if (one_of(s, "Zz"))
        return true;
    if (s->p == s->end)
        return false;
    sign = *s->p == '-' ? -1 : 1;
    if (!one_of(s, "+-") || !digits(s, 2, 23, &h) || !one_of(s, ":") || !digits(s, 2, 59, &m))
        return false;
    *offset_us = sign * (h * 60 + m) * INT64_C(60000000);
    return true;
}

bool
time_parse(struct slice text, int64_t *us)
{
    static const int month_days[] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    struct scan      s = {text.data, (const char *)text.data + text.len};
    int64_t          y, mo, d, h = 0, mi = 0, sec = 0, frac = 0, off = 0;

    if (text.len == 0 || !digits(&s, 4, 9999, &y) || !one_of(&s, "-") || !digits(&s, 2, 12, &mo) ||
        !one_of(&s, "-") || !digits(&s, 2, 31, &d))
        return false;
    if (mo < 1 || d < 1 || d > month_days[mo - 1])
        return false;
    if (mo == 2 && d == 29 && !(y % 4 == 0 && (y % 100 != 0 || y % 400 == 0)))
        return false;
    if (s.p != s.end) {
        if (!one_of(&s, "Tt ") || !digits(&s, 2, 23, &h) || !one_of(&s, ":") ||
            !digits(&s, 2, 59, &mi) || !one_of(&s, ":") || !digits(&s, 2, 60, &sec) ||
            !fraction(&s, &frac) || !zone(&s, &off) || s.p != s.end)
            return false;
    }
    *us = days_of(y, mo, d) * DAY_US + ((h * 60 + mi) * 60 + sec) * 1000000 + frac - off;
    return true;
}
