// Reads a MariaDB's binary log from its first event on; prints the seconds for so many rows.
import { createRequire } from 'module';

const ZongJi = createRequire(import.meta.url)('@vlasky/zongji');
const [socketPath, wanted] = process.argv.slice(2);
const reader = new ZongJi({ socketPath, user: 'root', password: '' });
let rows = 0;
const began = process.hrtime.bigint();
reader.on('binlog', (event) => {
  if (event.rows) {
    rows += event.rows.length;
  }
  if (rows >= Number(wanted)) {
    console.log(Number(process.hrtime.bigint() - began) / 1e9);
    process.exit(0);
  }
});
reader.on('error', (error) => {
  console.error(error);
  process.exit(1);
});
reader.start({ startAtEnd: false, filename: undefined, includeEvents: ['tablemap', 'writerows', 'updaterows', 'deleterows', 'rotate'] });
