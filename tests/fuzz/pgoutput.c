/*
 * The decoder of replication messages, which a server sends: any bytes, as an envelope, as a
 * message and as one within a stream. What was accepted is gone through to its last value.
 */
#include "source/postgres/pgoutput.h"

#include "base/must.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
go_through(struct slice row)
{
    struct pg_value value;
    uint32_t        count = row.len == 0 ? 0 : postgresi_row_begin(&row), seen = 0;

    while (postgresi_value_next(&row, &value)) {
        must(value.kind == 't' || value.text.len == 0);
        seen++;
    }
    must(seen == count);
}

static void
parse(struct slice bytes, bool in_stream)
{
    struct pg_message m;
    struct pg_column  column;
    struct slice      list;
    uint32_t          oid, seen = 0;

    if (postgresi_message_parse(bytes, in_stream, &m, NULL) != 0)
        return;
    go_through(m.old);
    go_through(m.new);
    list = m.list;
    if (m.kind == PG_RELATION)
        while (postgresi_column_next(&list, &column))
            seen++;
    else
        while (postgresi_relation_next(&list, &oid))
            seen++;
    must(seen == m.count);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice       bytes = slice_of(data, size);
    struct pg_envelope e;
    struct pg_lsn      lsn;
    char               text[PG_LSN_TEXT];

    parse(bytes, false);
    parse(bytes, true);
    if (postgresi_envelope_parse(bytes, &e, NULL) == 0)
        parse(e.payload, false);
    if (postgresi_lsn_parse(bytes, &lsn)) {
        uint64_t v = lsn.v;

        postgresi_lsn_format(lsn, text);
        must(postgresi_lsn_parse(slice_str(text), &lsn));
        must(lsn.v == v);
    }
    return 0;
}
