#include "count.h"

long count(FILE *in)
{
	long lines = 0;
	for (int c; (c = getc(in)) != EOF;)
		lines += c == '\n';
	return lines;
}
