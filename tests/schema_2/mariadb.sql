CREATE TABLE {prefix}jobs (
	number BIGINT NOT NULL AUTO_INCREMENT,
	uid VARCHAR(64) NOT NULL,
	state SMALLINT NOT NULL,
	`rank` SMALLINT NOT NULL,
	queue_name VARCHAR(64) NOT NULL,
	due_at DOUBLE,
	lease INTEGER NOT NULL DEFAULT 0,
	worker_id VARCHAR(64),
	attempts INTEGER NOT NULL DEFAULT 0,
	budget INTEGER NOT NULL,
	crashes INTEGER NOT NULL DEFAULT 0,
	cancelled BOOL NOT NULL DEFAULT false,
	fenced BOOL NOT NULL DEFAULT false,
	begun BOOL NOT NULL DEFAULT false,
	suspect BOOL NOT NULL DEFAULT false,
	enqueued_at DOUBLE NOT NULL DEFAULT (timestampdiff(MICROSECOND, '1970-01-01', utc_timestamp(6)) / 1e6),
	started_at DOUBLE,
	last_attempted_at DOUBLE,
	finished_at DOUBLE,
	name LONGTEXT NOT NULL,
	payload LONGTEXT NOT NULL,
	signature VARCHAR(255),
	options LONGTEXT,
	context LONGTEXT,
	result LONGTEXT,
	log LONGTEXT,
	task_name VARCHAR(255),
	enqueued_by VARCHAR(255),
	PRIMARY KEY (number),
	UNIQUE (uid)
)CHARSET=utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX {prefix}jobs_by_due_at ON {prefix}jobs (state, due_at);
CREATE INDEX {prefix}jobs_by_end ON {prefix}jobs (state, finished_at);
CREATE INDEX {prefix}jobs_by_queue_name_rank_number ON {prefix}jobs (state, queue_name, `rank`, number);
CREATE INDEX {prefix}jobs_by_rank_number ON {prefix}jobs (state, `rank`, number);
CREATE INDEX {prefix}jobs_by_task_end ON {prefix}jobs (task_name, finished_at);
CREATE INDEX {prefix}jobs_by_user_end ON {prefix}jobs (enqueued_by, finished_at);
CREATE INDEX {prefix}jobs_by_worker_id ON {prefix}jobs (state, worker_id);
CREATE TABLE {prefix}errors (
	number BIGINT NOT NULL AUTO_INCREMENT,
	uid VARCHAR(64) NOT NULL,
	exception_class_path VARCHAR(255) NOT NULL,
	message LONGTEXT NOT NULL,
	traceback LONGTEXT NOT NULL,
	at DOUBLE,
	attempt INTEGER,
	worker_id VARCHAR(64),
	PRIMARY KEY (number)
)CHARSET=utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX ix_{prefix}errors_uid ON {prefix}errors (uid);
CREATE TABLE {prefix}queues (
	name VARCHAR(64) NOT NULL,
	paused_at DOUBLE,
	paused_by VARCHAR(255),
	PRIMARY KEY (name)
)CHARSET=utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE {prefix}schema (
	version INTEGER NOT NULL AUTO_INCREMENT,
	identity VARCHAR(32),
	PRIMARY KEY (version)
)CHARSET=utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE {prefix}progress (
	uid VARCHAR(64) NOT NULL,
	value BIGINT NOT NULL,
	data LONGTEXT,
	total BIGINT,
	PRIMARY KEY (uid)
)CHARSET=utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE {prefix}workers (
	worker_id VARCHAR(64) NOT NULL,
	host VARCHAR(255) NOT NULL,
	pid INTEGER NOT NULL,
	threads INTEGER NOT NULL,
	queues LONGTEXT,
	started_at DOUBLE NOT NULL,
	seen_at DOUBLE NOT NULL,
	provable BOOL NOT NULL,
	expendable BOOL NOT NULL,
	PRIMARY KEY (worker_id)
)CHARSET=utf8mb4 COLLATE utf8mb4_bin;
INSERT INTO {prefix}schema (version, identity) VALUES (2, '0123456789abcdef0123456789abcdef');
