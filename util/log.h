/*
 * log.h - the daemon's log: one line per event, for the people who run it
 *
 * Only fs/ logs above DEBUG; library code returns errors instead.  Lines go to stderr in the
 * foreground, to syslog (journald) when daemonised, and to a file when `-o log=FILE` says so.
 * Control characters are escaped; secrets never reach this file.
 */
#pragma once

#include "util/err.h"

enum log_level { LOG_LVL_ERROR = 0, LOG_LVL_WARN, LOG_LVL_INFO, LOG_LVL_DEBUG };

enum log_target { LOG_TO_STDERR = 0, LOG_TO_SYSLOG, LOG_TO_FILE };

errint_t log_open(enum log_target target, const char *file, struct err *e);
void log_set_level(enum log_level level);
enum log_level log_get_level(void);
void log_at(enum log_level level, const char *fmt, ...) _printf_(2, 3);

#define log_error(...) log_at(LOG_LVL_ERROR, __VA_ARGS__)
#define log_warn(...) log_at(LOG_LVL_WARN, __VA_ARGS__)
#define log_info(...) log_at(LOG_LVL_INFO, __VA_ARGS__)
#define log_debug(...) log_at(LOG_LVL_DEBUG, __VA_ARGS__)
