/* What the shim's own files share. */
#ifndef TPA_INTERNAL_H
#define TPA_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

void tpa_quiet(bool on);
void tpa_quiesce(void);
bool tpa_port_gone(uint16_t port);

#endif
