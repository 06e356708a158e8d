/* Any message as ftvm's, given to the client that monitors use: it is a request within its bounds, or refused. */
#include "ftvm_vmm.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ftvm_vmm_request request;
    size_t header_bytes = size > 0 ? data[0] : 0;
    if (size == 0 || header_bytes > size - 1)
        return 0;
    if (!ftvm_vmm_parse(data + 1, header_bytes, data + 1 + header_bytes, size - 1 - header_bytes, &request))
        return 0;
    if (request.kind < FTVM_VMM_PAUSE || request.kind > FTVM_VMM_END || strlen(request.channel) > FTVM_VMM_NAME_BYTES)
        abort();
    if (request.payload_bytes != size - 1 - header_bytes)
        abort();
    return 0;
}
