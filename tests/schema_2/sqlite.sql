CREATE TABLE {prefix}jobs (
	number INTEGER NOT NULL,
	uid VARCHAR(64) NOT NULL,
	state SMALLINT NOT NULL,
	rank SMALLINT NOT NULL,
	queue_name VARCHAR(64) NOT NULL,
	due_at DOUBLE,
	lease INTEGER DEFAULT 0 NOT NULL,
	worker_id VARCHAR(64),
	attempts INTEGER DEFAULT 0 NOT NULL,
	budget INTEGER NOT NULL,
	crashes INTEGER DEFAULT 0 NOT NULL,
	cancelled BOOLEAN DEFAULT 0 NOT NULL,
	fenced BOOLEAN DEFAULT 0 NOT NULL,
	begun BOOLEAN DEFAULT 0 NOT NULL,
	suspect BOOLEAN DEFAULT 0 NOT NULL,
	enqueued_at DOUBLE DEFAULT ((julianday('now') - 2440587.5) * 86400.0) NOT NULL,
	started_at DOUBLE,
	last_attempted_at DOUBLE,
	finished_at DOUBLE,
	name TEXT NOT NULL,
	payload TEXT NOT NULL,
	signature VARCHAR(255),
	options TEXT,
	context TEXT,
	result TEXT,
	log TEXT,
	task_name VARCHAR(255),
	enqueued_by VARCHAR(255),
	PRIMARY KEY (number),
	UNIQUE (uid)
);
CREATE INDEX {prefix}jobs_by_due_at ON {prefix}jobs (state, due_at) WHERE state = 1;
CREATE INDEX {prefix}jobs_by_end ON {prefix}jobs (state, finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX {prefix}jobs_by_queue_name_rank_number ON {prefix}jobs (state, queue_name, rank, number) WHERE state = 0;
CREATE INDEX {prefix}jobs_by_rank_number ON {prefix}jobs (state, rank, number) WHERE state = 0;
CREATE INDEX {prefix}jobs_by_task_end ON {prefix}jobs (task_name, finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX {prefix}jobs_by_user_end ON {prefix}jobs (enqueued_by, finished_at) WHERE enqueued_by IS NOT NULL;
CREATE INDEX {prefix}jobs_by_worker_id ON {prefix}jobs (state, worker_id) WHERE state = 2;
CREATE TABLE {prefix}errors (
	number INTEGER NOT NULL,
	uid VARCHAR(64) NOT NULL,
	exception_class_path VARCHAR(255) NOT NULL,
	message TEXT NOT NULL,
	traceback TEXT NOT NULL,
	at DOUBLE,
	attempt INTEGER,
	worker_id VARCHAR(64),
	PRIMARY KEY (number)
);
CREATE INDEX ix_{prefix}errors_uid ON {prefix}errors (uid);
CREATE TABLE {prefix}queues (
	name VARCHAR(64) NOT NULL,
	paused_at DOUBLE,
	paused_by VARCHAR(255),
	PRIMARY KEY (name)
);
CREATE TABLE {prefix}schema (
	version INTEGER NOT NULL,
	identity VARCHAR(32),
	PRIMARY KEY (version)
);
CREATE TABLE {prefix}progress (
	uid VARCHAR(64) NOT NULL,
	value BIGINT NOT NULL,
	data TEXT,
	total BIGINT,
	PRIMARY KEY (uid)
);
CREATE TABLE {prefix}workers (
	worker_id VARCHAR(64) NOT NULL,
	host VARCHAR(255) NOT NULL,
	pid INTEGER NOT NULL,
	threads INTEGER NOT NULL,
	queues TEXT,
	started_at DOUBLE NOT NULL,
	seen_at DOUBLE NOT NULL,
	provable BOOLEAN NOT NULL,
	expendable BOOLEAN NOT NULL,
	PRIMARY KEY (worker_id)
);
INSERT INTO {prefix}schema (version, identity) VALUES (2, '0123456789abcdef0123456789abcdef');
