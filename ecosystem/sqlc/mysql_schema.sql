CREATE TABLE authors (
	id bigint AUTO_INCREMENT PRIMARY KEY,
	name varchar(50) NOT NULL UNIQUE,
	bio text,
	details json NOT NULL
);
