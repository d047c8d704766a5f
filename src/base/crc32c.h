/* CRC-32C (Castagnoli, RFC 3720 appendix B.4): by instruction where there is one. */
#ifndef OX_BASE_CRC32C_H
#define OX_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* The checksum of data, continuing `crc`; start with 0. */
uint32_t crc32c(uint32_t crc, const void *data, size_t len);

/* The portable one, for tests and machines without the instruction. */
uint32_t crc32c_portable(uint32_t crc, const void *data, size_t len);

#endif
