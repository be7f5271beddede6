/* Programs and patches in float32. */

#define PER 1
#include "program.h"
#include "patches.h"
