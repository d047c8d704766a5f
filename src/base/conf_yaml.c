/*
 * From YAML's events to the tree. Only what a configuration needs: one
 * document of mappings, sequences and scalars. Aliases could blow up a small
 * file, and tags change what a value means: both are refused.
 */
#include <stdio.h>
#include <yaml.h>

#include "base/conf_int.h"
#include "base/must.h"
#include "base/utf8.h"

struct builder {
    struct conf_job *job;
    struct conf     *at; /* the collection that is open; NULL at the top */
    char            *key;
    uint32_t         depth, key_line, key_column;
    bool             done, stop;
};

static void
refuse(struct builder *b, const yaml_mark_t *mark, const char *what)
{
    basei_conf_problem(b->job, (uint32_t)mark->line + 1, (uint32_t)mark->column + 1, "%s", what);
    b->job->syntax = true;
    b->stop = true;
}

static bool
has_key(const struct conf *c, const char *key)
{
    const struct conf *e;

    for (e = c->first; e != NULL; e = e->next) {
        if (strcmp(e->key, key) == 0)
            return true;
    }
    return false;
}

/* A scalar where a mapping wants a key. */
static int
take_key(struct builder *b, const yaml_event_t *e, struct err *err)
{
    const char *text = (const char *)e->data.scalar.value;
    size_t      len = e->data.scalar.length;
    uint32_t    line = (uint32_t)e->start_mark.line + 1;
    uint32_t    column = (uint32_t)e->start_mark.column + 1;

    if (len == 0 || memchr(text, '\0', len) != NULL) {
        refuse(b, &e->start_mark, "a key must not be empty or hold a NUL");
        return 0;
    }
    if (b->at->count >= CONF_KEYS_MAX) {
        refuse(b, &e->start_mark, "too many keys in one mapping");
        return 0;
    }
    b->key = basei_conf_copy(b->job->tree, text, len);
    if (b->key == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "no memory for the configuration");
    if (has_key(b->at, b->key)) /* goes on: there may be more to report */
        basei_conf_problem(b->job, line, column, "the key \"%.100s\" comes twice", b->key);
    b->key_line = line;
    b->key_column = column;
    return 0;
}

static int
add_node(struct builder *b, const yaml_event_t *e, enum conf_shape shape, struct conf **out,
         struct err *err)
{
    struct conf *c = basei_conf_node(b->job->tree, b->at, shape);

    if (c == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "no memory for the configuration");
    if (b->job->tree->nodes > CONF_NODES_MAX)
        refuse(b, &e->start_mark, "too many values");
    c->key = b->key;
    c->key_line = b->key_line;
    c->key_column = b->key_column;
    b->key = NULL;
    c->line = (uint32_t)e->start_mark.line + 1;
    c->column = (uint32_t)e->start_mark.column + 1;
    *out = c;
    return 0;
}

static int
take_scalar(struct builder *b, const yaml_event_t *e, struct err *err)
{
    struct conf *c;
    int          rc;

    if (b->at != NULL && b->at->shape == CONF_MAPPING && b->key == NULL)
        return take_key(b, e, err);
    TRY(add_node(b, e, CONF_SCALAR, &c, err));
    if (memchr(e->data.scalar.value, '\0', e->data.scalar.length) != NULL)
        refuse(b, &e->start_mark, "a value must not hold a NUL");
    c->plain = e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    c->text = basei_conf_copy(b->job->tree, e->data.scalar.value, e->data.scalar.length);
    if (c->text == NULL)
        FAIL(err, E_NOMEM, ERR_FATAL, "no memory for the configuration");
out:
    return rc;
}

static int
open_node(struct builder *b, const yaml_event_t *e, enum conf_shape shape, struct err *err)
{
    struct conf *c;
    int          rc = 0;

    if (b->at != NULL && b->at->shape == CONF_MAPPING && b->key == NULL) {
        refuse(b, &e->start_mark, "a key must be plain text");
        goto out;
    }
    if (++b->depth > CONF_DEPTH_MAX) {
        refuse(b, &e->start_mark, "nested too deeply");
        goto out;
    }
    TRY(add_node(b, e, shape, &c, err));
    b->at = c;
out:
    return rc;
}

static void
close_node(struct builder *b)
{
    must(b->at != NULL);
    b->at = b->at->parent;
    b->depth--;
}

/* Anchors and tags, wherever they may stand. */
static bool
is_marked(const yaml_event_t *e, const char **what)
{
    const yaml_char_t *anchor = NULL, *tag = NULL;

    if (e->type == YAML_SCALAR_EVENT) {
        anchor = e->data.scalar.anchor;
        tag = e->data.scalar.tag;
    } else if (e->type == YAML_MAPPING_START_EVENT) {
        anchor = e->data.mapping_start.anchor;
        tag = e->data.mapping_start.tag;
    } else if (e->type == YAML_SEQUENCE_START_EVENT) {
        anchor = e->data.sequence_start.anchor;
        tag = e->data.sequence_start.tag;
    }
    *what = anchor != NULL ? "anchors (&name) are not supported: write the value out"
                           : "tags (!name) are not supported";
    return anchor != NULL || tag != NULL;
}

static int
take_event(struct builder *b, const yaml_event_t *e, struct err *err)
{
    const char *what;

    if (is_marked(e, &what)) {
        refuse(b, &e->start_mark, what);
        return 0;
    }
    switch (e->type) {
    case YAML_DOCUMENT_START_EVENT:
        if (b->job->tree->root != NULL)
            refuse(b, &e->start_mark, "a second document: only one is read");
        return 0;
    case YAML_ALIAS_EVENT:
        refuse(b, &e->start_mark, "aliases (*name) are not supported: write the value out");
        return 0;
    case YAML_SCALAR_EVENT:
        return take_scalar(b, e, err);
    case YAML_SEQUENCE_START_EVENT:
        return open_node(b, e, CONF_SEQUENCE, err);
    case YAML_MAPPING_START_EVENT:
        return open_node(b, e, CONF_MAPPING, err);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        close_node(b);
        return 0;
    case YAML_STREAM_END_EVENT:
        b->done = true;
        return 0;
    default:
        return 0;
    }
}

static void
refuse_yaml(struct builder *b, const yaml_parser_t *p)
{
    char text[200];

    (void)snprintf(text, sizeof text, "not YAML: %s%s%s",
                   p->problem == NULL ? "cannot be read" : p->problem,
                   p->context == NULL ? "" : ", ", p->context == NULL ? "" : p->context);
    refuse(b, &p->problem_mark, text);
}

static bool
check_bytes(struct builder *b, struct slice text)
{
    size_t         good = utf8_valid_len(text);
    yaml_mark_t    mark = {0, 0, 0};
    const uint8_t *p = text.data;

    if (good == text.len)
        return true;
    for (size_t i = 0; i < good; i++) {
        mark.column += (p[i] & 0xc0) != 0x80;
        if (p[i] == '\n') {
            mark.line++;
            mark.column = 0;
        }
    }
    refuse(b, &mark, "not UTF-8");
    return false;
}

/* A file with nothing in it is an empty mapping. */
static int
make_root(struct builder *b, struct err *err)
{
    struct conf *root = b->job->tree->root;

    if (root != NULL && !(root->shape == CONF_SCALAR && root->plain && *root->text == '\0'))
        return 0;
    root = basei_conf_node(b->job->tree, NULL, CONF_MAPPING);
    if (root == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "no memory for the configuration");
    root->line = root->column = 1;
    return 0;
}

int
basei_conf_parse(struct conf_job *job, struct slice text, struct err *err)
{
    struct builder b = {.job = job};
    yaml_parser_t  parser;
    yaml_event_t   event;
    int            rc = 0;

    if (!check_bytes(&b, text))
        return 0;
    if (yaml_parser_initialize(&parser) == 0)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "no memory for the configuration");
    yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parser, text.len == 0 ? (const uint8_t *)"" : text.data,
                                 text.len);
    while (!b.done && !b.stop && rc == 0) {
        if (yaml_parser_parse(&parser, &event) == 0) {
            if (parser.error == YAML_MEMORY_ERROR)
                rc = err_set(err, __FILE__, __LINE__, E_NOMEM, ERR_FATAL,
                             "no memory for the configuration");
            else
                refuse_yaml(&b, &parser);
            break;
        }
        rc = take_event(&b, &event, err);
        yaml_event_delete(&event);
    }
    yaml_parser_delete(&parser);
    if (rc == 0 && !b.stop)
        rc = make_root(&b, err);
    return rc;
}
