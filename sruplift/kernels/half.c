/* Programs and patches in bf16. */

#define PER 2
#include "program.h"
#include "patches.h"

/* Whether the processor multiplies bf16 by itself. */
int32_t sruplift_half(void) { return HALF; }
