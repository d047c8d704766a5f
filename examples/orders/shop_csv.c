#include "shop_csv.h"
#include "misc.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_MAX (64L * 1024 * 1024)

struct line {
    size_t first, count; /* of the fields */
};

struct csv {
    char        *text; /* fields end in NUL, in place */
    const char **fields;
    size_t       field_count, field_room;
    struct line *lines;
    size_t       line_count, line_room;
};

static int
grow(void **list, size_t count, size_t *room, size_t size)
{
    size_t more = *room == 0 ? 256 : *room * 2;
    void  *grown;

    if (count < *room)
        return 0;
    grown = reallocarray(*list, more, size);
    if (grown == NULL)
        return -1;
    *list = grown;
    *room = more;
    return 0;
}

static char *
read_file(const char *path)
{
    FILE  *f = fopen(path, "re");
    char  *text = NULL;
    long   size = -1;
    size_t n;

    if (f == NULL)
        goto fail;
    if (fseek(f, 0, SEEK_END) == 0)
        size = ftell(f);
    if (size < 0 || size > FILE_MAX || fseek(f, 0, SEEK_SET) != 0)
        goto fail;
    text = malloc((size_t)size + 1);
    if (text == NULL)
        goto fail;
    n = fread(text, 1, (size_t)size, f);
    text[n] = '\0';
    (void)fclose(f);
    return text;
fail:
    complain("%s: %s", path, size > FILE_MAX ? "too large" : strerror(errno));
    if (f != NULL)
        (void)fclose(f);
    return NULL;
}

/* Reads one field at `*at`, in place; returns the byte that ended it. */
static char
take_field(char **at, const char **field)
{
    char *in = *at;
    char *out = in;
    char  end;

    *field = out;
    if (*in == '"') {
        for (in++; *in != '\0'; in++) {
            if (*in == '"' && in[1] != '"') {
                in++;
                break;
            }
            in += *in == '"';
            *out++ = *in;
        }
    }
    while (*in != '\0' && *in != ',' && *in != '\n') {
        if (*in != '\r' || in[1] != '\n')
            *out++ = *in;
        in++;
    }
    end = *in;
    *at = end == '\0' ? in : in + 1;
    *out = '\0';
    return end;
}

static int
take_line(struct csv *csv, char **at)
{
    struct line line = {.first = csv->field_count};
    char        end;

    do {
        if (grow((void **)&csv->fields, csv->field_count, &csv->field_room, sizeof(*csv->fields)) !=
            0)
            return -1;
        end = take_field(at, &csv->fields[csv->field_count]);
        csv->field_count++;
        line.count++;
    } while (end == ',');
    if (grow((void **)&csv->lines, csv->line_count, &csv->line_room, sizeof(*csv->lines)) != 0)
        return -1;
    csv->lines[csv->line_count++] = line;
    return 0;
}

struct csv *
csv_open(const char *dir, const char *name)
{
    struct csv *csv = calloc(1, sizeof(*csv));
    char        path[4096];
    char       *at;

    if (csv == NULL)
        return NULL;
    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    csv->text = read_file(path);
    if (csv->text == NULL)
        goto fail;
    at = csv->text;
    if (strncmp(at, "\xef\xbb\xbf", 3) == 0)
        at += 3;
    while (*at != '\0')
        if (take_line(csv, &at) != 0)
            goto fail;
    if (csv->line_count > 0)
        return csv;
    complain("%s: there is no header line", path);
fail:
    csv_free(csv);
    return NULL;
}

void
csv_free(struct csv *csv)
{
    if (csv == NULL)
        return;
    free(csv->text);
    free(csv->fields);
    free(csv->lines);
    free(csv);
}

size_t
csv_rows(const struct csv *csv)
{
    return csv->line_count - 1;
}

const char *
csv_get(const struct csv *csv, size_t row, const char *column)
{
    const struct line *head = &csv->lines[0];
    const struct line *line = &csv->lines[row + 1];

    for (size_t i = 0; i < head->count; i++)
        if (strcmp(csv->fields[head->first + i], column) == 0)
            return i < line->count ? csv->fields[line->first + i] : "";
    return NULL;
}
