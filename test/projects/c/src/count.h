#include <stdio.h>

long count(FILE *in);
