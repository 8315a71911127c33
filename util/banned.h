/*
 * banned.h - functions that have no safe use here; included in front of every file
 *
 * Each has a better neighbour: buf_addf for sprintf, buf_add for strcat, strtoull with checks (see
 * parse.h where it exists) for atoi, gmtime_r for gmtime, strerror through err_errno.
 */
#pragma once
#pragma GCC system_header
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#pragma GCC poison strcpy strcat strncat sprintf vsprintf gets strtok atoi atol atoll
#pragma GCC poison gmtime localtime ctime asctime tmpnam tempnam mktemp
