/* The command line as words: options, commands, help, and what was perhaps meant. */
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/must.h"
#include "cli/cli_int.h"

#define NAMES_MAX 64

const struct cli_option clii_options[OPT_COUNT] = {
    [OPT_DATA] = {"data", 0, "DIR", "the data folder ($OXBOW_DATA, or ./oxbow-data)"},
    [OPT_SERVER] = {"server", 0, "URL", "a running server instead of a folder ($OXBOW_SERVER)"},
    [OPT_CONF] = {"config", 'c', "FILE", "the configuration"},
    [OPT_JSON] = {"json", 0, NULL, "results as JSON, a line each"},
    [OPT_HELP] = {"help", 'h', NULL, "what the command does"},
    [OPT_VERSION] = {"version", 0, NULL, "the version of oxbow"},
    [OPT_EXPECT] = {"expect", 0, "any|no-stream|exists|N",
                    "the version that the stream has to have"},
    [OPT_BATCH] = {"batch", 0, "N", "at most N events in a commit (1000)"},
    [OPT_FROM] =
        {"from", 0, "N",
         "the first version, or for $all the first position; or \"end\". Of a sink: a place"},
    [OPT_BACKWARDS] = {"backwards", 0, NULL, "from the newest to the oldest"},
    [OPT_LIMIT] = {"limit", 'n', "N", "stop after N"},
    [OPT_FOLLOW] = {"follow", 'f', NULL, "wait for more, until interrupted"},
    [OPT_TYPE] = {"type", 0, "TYPE", "only events of this type"},
    [OPT_PREFIX] = {"prefix", 0, "TEXT", "only streams whose names begin so (reads by position)"},
    [OPT_CATEGORY] = {"category", 0, "NAME", "only streams NAME-… (reads by position)"},
    [OPT_AT] = {"at", 0, "POSITION|TIME", "as it was then; a time as in 2026-11-22T08:30:00Z"},
    [OPT_LISTEN] = {"listen", 0, "HOST:PORT", "instead of the configuration's"},
    [OPT_DRY_RUN] = {"dry-run", 0, NULL, "only say what would be done"},
    [OPT_WATCH] = {"watch", 0, NULL, "show progress until it is decided"},
    [OPT_RATE] = {"rate", 0, "N", "at most N MiB in a second"},
    [OPT_KEYS] = {"keys", 0, "DIR",
                  "the keystore of subjects ($OXBOW_KEYS, or keys in the folder)"},
    [OPT_STREAMS] = {"streams", 0, "NAME,PREFIX*,…", "delete these streams too"},
    [OPT_VERIFY_ONLY] = {"verify-only", 0, NULL, "read and verify all of it, restore nothing"},
    [OPT_MIN_SHARE] = {"min-share", 0, "PERCENT", "what a segment has to free (10)"},
    [OPT_STOP] = {"stop", 0, NULL, "end the one that is running at the server"},
    [OPT_RESOLVE] = {"resolve", 0, NULL, "follow links to the events that they lead to"},
    [OPT_RAW] = {"raw", 0, NULL, "events as they are stored, past the upcasters"},
    [OPT_PATH] = {"path", 0, "PATH", "the field: a.b.0 or a.*.b, or /a/b as a JSON Pointer"},
    [OPT_EVERY] = {"every", 0, "SECONDS", "between two looks (1)"},
    [OPT_INSECURE] = {"insecure", 0, NULL, "listen where others can reach it, as it is"},
    [OPT_TO] = {"to", 0, "NAME",
                "the new stream; {stream}, {category}, {key} stand for the old one's. Of a sink: "
                "a place"},
    [OPT_TRANSFORM] = {"transform", 0, "FILE", "rules or a script, as YAML"},
    [OPT_WHERE] = {"where", 0, "CONDITION", "only events that it names, as in '{type: A}'"},
    [OPT_NAME] = {"name", 0, "NAME", "of the surgery; else one is made"},
    [OPT_MODE] = {"mode", 0, "copy|link", "links leave the events where they are (copy)"},
    [OPT_REASON] = {"reason", 0, "TEXT", "what the old streams say of it"},
    [OPT_KEEP] = {"keep", 0, "TIME", "how long the originals stay, as in 30d (for ever)"},
    [OPT_P99] = {"max-foreground-p99", 0, "MS", "slow down where others' appends take longer"},
    [OPT_PACE] = {"max-events-per-s", 0, "N", "move no more than so many"},
    [OPT_SAMPLE] = {"sample", 0, "N", "look at the first N streams, 0: all (1000)"},
    [OPT_THEN] = {"then", 0, "FILE",
                  "and what a second surgery would do with that: its spec as JSON"},
    [OPT_OLD] = {"old-writers", 0, "reject|route",
                 "refuse what is appended to the old streams, or copy it on (reject)"},
    [OPT_FOR] = {"for", 0, "postgres|mariadb|sqlite", "the database that the SQL is for"},
    [OPT_FOLLOW_MOVES] = {"follow-moves", 0, NULL, "go to where the stream was moved"},
    [OPT_MOVED] = {"moved", 0, "WHAT",
                   "deliver copies of moved streams' events, or skip those of events seen"},
    [OPT_LINKS] = {"links", 0, "WHAT", "ignore links, or resolve them"},
    [OPT_START] = {"start", 0, "N", "with --moved skip: where reading once began (as --from)"},
    [OPT_USER] = {"user", 'u', "NAME",
                  "who asks ($OXBOW_USER); with $OXBOW_PASSWORD, or $OXBOW_TOKEN instead"},
    [OPT_ROLE] = {"role", 0, "ROLE,…", "admin, ops, read, write"},
    [OPT_GROUP] = {"group", 0, "NAME,…", "the groups that the user is in"},
    [OPT_FULL_NAME] = {"full-name", 0, "TEXT", "how the user is called"},
    [OPT_GENERATE] = {"generate", 0, NULL, "make a password, and write it"},
    [OPT_LABEL] = {"label", 0, "TEXT", "what the token is for"},
    [OPT_EXPIRES] = {"expires", 0, "TIME", "how long the token holds, as in 90d (for ever)"},
    [OPT_METADATA] = {"metadata", 0, NULL, "the field is in the metadata, not in the data"},
    [OPT_DIFFERENCES] = {"differences", 0, NULL, "only what is not as it was captured last"},
    [OPT_GAP] = {"gap", 0, NULL, "all tables' differences; goes on from where the source is now"},
};

/* How many letters to change, add, remove or swap; more than `most` is most + 1. */
static unsigned
distance(const char *a, const char *b, unsigned most)
{
    enum { LEN = 32 };
    unsigned rows[3][LEN + 1];
    size_t   la = strlen(a), lb = strlen(b);

    if (la > LEN || lb > LEN)
        return most + 1;
    for (unsigned j = 0; j <= lb; j++)
        rows[0][j] = j;
    for (unsigned i = 1; i <= la; i++) {
        unsigned *now = rows[i % 3], *last = rows[(i + 2) % 3], *before = rows[(i + 1) % 3];

        now[0] = i;
        for (unsigned j = 1; j <= lb; j++) {
            unsigned best = last[j - 1] + (a[i - 1] != b[j - 1]);

            if (last[j] + 1 < best)
                best = last[j] + 1;
            if (now[j - 1] + 1 < best)
                best = now[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                before[j - 2] + 1 < best)
                best = before[j - 2] + 1;
            now[j] = best;
        }
    }
    return rows[la % 3][lb];
}

const char *
clii_nearest(const char *word, const char *const *words)
{
    unsigned    best = strlen(word) > 4 ? 3 : 2; /* so many are too far */
    const char *found = NULL;

    for (; *words != NULL; words++) {
        unsigned d = distance(word, *words, best);

        if (d < best) {
            best = d;
            found = *words;
        }
    }
    return found;
}

static int
unknown_option(const struct cli *c, const char *word, struct err *err)
{
    const char *names[OPT_COUNT + 1];
    unsigned    count = 0;
    uint64_t    takes = CLI_COMMON | (c->command == NULL ? 0 : c->command->opts);
    const char *near, *for_whom = c->command == NULL ? "oxbow" : c->command->name;

    for (unsigned i = 0; i < OPT_COUNT; i++)
        if (takes & CLI_HAS(i))
            names[count++] = clii_options[i].name;
    names[count] = NULL;
    near = word[0] == '-' && word[1] == '-' ? clii_nearest(word + 2, names) : NULL;
    if (near != NULL)
        RETURN_ERR(err, E_USAGE, ERR_DATA, "%s: %s takes no such option; did you mean --%s?", word,
                   for_whom, near);
    RETURN_ERR(err, E_USAGE, ERR_DATA, "%s: %s takes no such option; try oxbow %s--help", word,
               for_whom, c->command == NULL ? "" : "COMMAND ");
}

/* Which option a word names; OPT_COUNT: none. `value` is what stands after "=". */
static unsigned
option_of(const char *word, const char **value)
{
    size_t len = strcspn(word, "=");

    *value = NULL;
    for (unsigned i = 0; i < OPT_COUNT; i++) {
        const struct cli_option *o = &clii_options[i];

        if (word[1] != '-') {
            if (o->letter != 0 && word[1] == o->letter) {
                *value = word[2] == '\0' ? NULL : word + 2;
                return i;
            }
        } else if (strlen(o->name) == len - 2 && strncmp(word + 2, o->name, len - 2) == 0) {
            *value = word[len] == '=' ? word + len + 1 : NULL;
            return i;
        }
    }
    return OPT_COUNT;
}

/* Takes argv[*at], and what it needs behind it. */
static int
take_option(struct cli *c, int argc, char **argv, int *at, struct err *err)
{
    const char *word = argv[*at], *value;
    unsigned    opt = option_of(word, &value);

    if (opt == OPT_COUNT)
        return unknown_option(c, word, err);
    if (clii_options[opt].value == NULL) {
        if (value != NULL)
            RETURN_ERR(err, E_USAGE, ERR_DATA, "--%s: takes no value", clii_options[opt].name);
        value = "";
    } else if (value == NULL) {
        if (*at + 1 >= argc)
            RETURN_ERR(err, E_USAGE, ERR_DATA, "--%s: needs %s", clii_options[opt].name,
                       clii_options[opt].value);
        value = argv[++*at];
    }
    if (c->opt[opt] != NULL && clii_options[opt].value != NULL)
        RETURN_ERR(err, E_USAGE, ERR_DATA, "--%s: given twice", clii_options[opt].name);
    c->opt[opt] = value;
    return 0;
}

/* The words of a command's name, 0 where they do not fit. */
static unsigned
fits(const struct cli_command *command, const char *const *words, unsigned count)
{
    const char *space = strchr(command->name, ' ');
    size_t      len = space == NULL ? strlen(command->name) : (size_t)(space - command->name);

    if (count == 0 || strlen(words[0]) != len || strncmp(words[0], command->name, len) != 0)
        return 0;
    if (space == NULL)
        return 1;
    return count > 1 && strcmp(words[1], space + 1) == 0 ? 2 : 0;
}

/* "stream" is the first word of several commands. */
static bool
is_group(const char *word)
{
    size_t len = strlen(word);

    for (const struct cli_command *k = clii_commands; k->name != NULL; k++)
        if (strncmp(k->name, word, len) == 0 && k->name[len] == ' ')
            return true;
    return false;
}

static int
unknown_command(const char *const *words, unsigned count, struct err *err)
{
    const char *names[NAMES_MAX + 1], *near;
    char        firsts[NAMES_MAX][16];
    bool        group = is_group(words[0]);
    const char *word = group && count > 1 ? words[1] : words[0];
    unsigned    n = 0;

    for (const struct cli_command *k = clii_commands; k->name != NULL && n < NAMES_MAX; k++) {
        size_t first = strcspn(k->name, " ");

        if (group) {
            if (strncmp(k->name, words[0], first) != 0 || strlen(words[0]) != first)
                continue;
            names[n++] = k->name + first + 1;
        } else {
            (void)snprintf(firsts[n], sizeof firsts[n], "%.*s", (int)first, k->name);
            names[n] = firsts[n];
            n++;
        }
    }
    names[n] = NULL;
    if (group && count == 1)
        RETURN_ERR(err, E_USAGE, ERR_DATA, "%s: needs a word more, such as %s; try oxbow %s --help",
                   words[0], names[0], words[0]);
    near = clii_nearest(word, names);
    if (near != NULL)
        RETURN_ERR(err, E_USAGE, ERR_DATA, "%s: no such command; did you mean oxbow %s%s%s?", word,
                   group ? words[0] : "", group ? " " : "", near);
    RETURN_ERR(err, E_USAGE, ERR_DATA, "%s: no such command; try oxbow --help", word);
}

static int
check_options(const struct cli *c, struct err *err)
{
    uint64_t takes = CLI_COMMON | (c->command == NULL ? 0 : c->command->opts);

    for (unsigned i = 0; i < OPT_COUNT; i++) {
        char word[32];

        if (c->opt[i] == NULL || (takes & CLI_HAS(i)))
            continue;
        (void)snprintf(word, sizeof word, "--%s", clii_options[i].name);
        return unknown_option(c, word, err);
    }
    return 0;
}

static int
check_args(const struct cli *c, struct err *err)
{
    if (c->arg_count < c->command->args_min)
        RETURN_ERR(err, E_USAGE, ERR_DATA, "%s: something is missing; usage: oxbow %s %s",
                   c->command->name, c->command->name, c->command->args);
    if (c->arg_count > c->command->args_max)
        RETURN_ERR(err, E_USAGE, ERR_DATA, "%s: one word too many; usage: oxbow %s %s",
                   c->args[c->command->args_max], c->command->name, c->command->args);
    return 0;
}

int
clii_parse(struct cli *c, int argc, char **argv, const char **words, struct err *err)
{
    unsigned count = 0, used = 0;
    bool     ended = false;
    int      rc = 0;

    for (int i = 1; i < argc; i++) {
        if (!ended && strcmp(argv[i], "--") == 0) {
            ended = true;
        } else if (!ended && argv[i][0] == '-' && argv[i][1] != '\0') {
            const char *ignored;

            /* Which command it is decides about the option that is not known. */
            if (option_of(argv[i], &ignored) == OPT_COUNT)
                for (const struct cli_command *k = clii_commands; k->name != NULL; k++)
                    if (fits(k, words, count) != 0)
                        c->command = k;
            TRY(take_option(c, argc, argv, &i, err));
        } else {
            words[count++] = argv[i];
        }
    }
    for (const struct cli_command *k = clii_commands; k->name != NULL && used == 0; k++) {
        used = fits(k, words, count);
        if (used != 0)
            c->command = k;
    }
    c->args = words + used;
    c->arg_count = count - used;
    TRY(check_options(c, err));
    if (c->opt[OPT_HELP] != NULL || c->opt[OPT_VERSION] != NULL) {
        if (c->command == NULL && count > 0 && !is_group(words[0]))
            return unknown_command(words, count, err);
        return 0;
    }
    if (c->command == NULL)
        return count > 0 ? unknown_command(words, count, err) : 0;
    TRY(check_args(c, err));
out:
    return rc;
}

static void
put_option(struct cli *c, unsigned opt)
{
    const struct cli_option *o = &clii_options[opt];
    char                     left[64];

    (void)snprintf(left, sizeof left, "%c%c%s--%s%s%s", o->letter != 0 ? '-' : ' ',
                   o->letter != 0 ? o->letter : ' ', o->letter != 0 ? ", " : "  ", o->name,
                   o->value != NULL ? " " : "", o->value != NULL ? o->value : "");
    clii_printf(c, "  %-30s  %s\n", left, o->doc);
}

static void
put_command(struct cli *c, const struct cli_command *k)
{
    char left[80];

    (void)snprintf(left, sizeof left, "%s %s", k->name, k->args);
    clii_printf(c, "  %-34s  %s\n", left, k->doc);
}

static bool
begins_with(const struct cli_command *k, const char *word)
{
    size_t n = strlen(word);

    return strncmp(k->name, word, n) == 0 && (k->name[n] == ' ' || k->name[n] == '\0');
}

/* What stood before --help may be the first word of several commands. */
void
clii_help(struct cli *c)
{
    const struct cli_command *k = c->command;
    const char               *group = c->arg_count > 0 ? c->args[0] : NULL;

    if (k == NULL) {
        clii_put_str(c, "usage: oxbow COMMAND [options]\n\n");
        for (k = clii_commands; k->name != NULL; k++)
            if (group == NULL || begins_with(k, group))
                put_command(c, k);
        clii_put_str(c, "\n");
    } else {
        clii_printf(c, "usage: oxbow %s %s\n\n%s.\n", k->name, k->args, k->doc);
        if (k->more != NULL)
            clii_printf(c, "\n%s\n", k->more);
        clii_put_str(c, "\n");
        for (unsigned i = 0; i < OPT_COUNT; i++)
            if (k->opts & CLI_HAS(i))
                put_option(c, i);
    }
    for (unsigned i = 0; i < OPT_COUNT; i++)
        if (CLI_COMMON & CLI_HAS(i))
            put_option(c, i);
    clii_put_str(c, "\nExit status: 0 done, 1 refused, 2 usage, 3 cannot reach or open.\n");
}

bool
clii_json(const struct cli *c)
{
    return c->opt[OPT_JSON] != NULL;
}

const char *
clii_data(const struct cli *c)
{
    const char *folder = c->opt[OPT_DATA];

    if (folder == NULL)
        folder = getenv("OXBOW_DATA");
    return folder == NULL || folder[0] == '\0' ? "oxbow-data" : folder;
}

const char *
clii_server(const struct cli *c)
{
    const char *url = c->opt[OPT_SERVER];

    if (url == NULL && c->opt[OPT_DATA] == NULL)
        url = getenv("OXBOW_SERVER");
    return url == NULL || url[0] == '\0' ? NULL : url;
}

int
clii_number(const struct cli *c, enum cli_opt opt, uint64_t preset, uint64_t *out, struct err *err)
{
    *out = preset;
    if (c->opt[opt] == NULL || json_uint64(slice_str(c->opt[opt]), out))
        return 0;
    RETURN_ERR(err, E_USAGE, ERR_DATA, "--%s %s: must be a number", clii_options[opt].name,
               c->opt[opt]);
}
