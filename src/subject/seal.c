/* Sealed data: its bytes (base/subjects.h), and text forms. */
#include "base/must.h"
#include "base/utf8.h"
#include "subject/subject_int.h"

bool
subject_key_of(struct slice sealed, struct ox_id *out)
{
    if (sealed.len < SUBJECTS_OVERHEAD)
        return false;
    memcpy(out->b, sealed.data, sizeof out->b);
    return true;
}

int
subject_name_check(struct slice name, struct err *err)
{
    const uint8_t *p = name.data;

    if (name.len == 0 || name.len > SUBJECTS_NAME_MAX)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "a subject's name has %zu bytes, 1 to %d are allowed",
                   name.len, SUBJECTS_NAME_MAX);
    if (!utf8_valid(name))
        RETURN_ERR(err, E_INVALID, ERR_DATA, "a subject's name has to be UTF-8");
    for (size_t i = 0; i < name.len; i++)
        if (p[i] < 0x20 || p[i] == 0x7f)
            RETURN_ERR(err, E_INVALID, ERR_DATA, "a subject's name has no control characters");
    return 0;
}

static int
nibble(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool
subject_master_parse(struct slice text, uint8_t out[SUBJECT_KEY_BYTES])
{
    const uint8_t *p = text.data;

    if (text.len != (size_t)2 * SUBJECT_KEY_BYTES)
        return false;
    for (size_t i = 0; i < SUBJECT_KEY_BYTES; i++) {
        int high = nibble(p[2 * i]), low = nibble(p[2 * i + 1]);

        if (high < 0 || low < 0)
            return false;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}
