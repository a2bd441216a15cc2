"""The tables and indexes of performers.db, as SQL."""

from __future__ import annotations

# The sidecar unpacks `SELECT *` of performers, stashbox_ids, aliases and faces into fixed fields: one column more or less
# breaks it.
SCHEMA = """
CREATE TABLE schema_version (version INTEGER PRIMARY KEY);
CREATE TABLE performers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    canonical_name TEXT NOT NULL,
    disambiguation TEXT,
    gender TEXT,
    country TEXT,
    ethnicity TEXT,
    birth_date TEXT,
    death_date TEXT,
    height_cm INTEGER,
    eye_color TEXT,
    hair_color TEXT,
    career_start_year INTEGER,
    career_end_year INTEGER,
    scene_count INTEGER,
    stashdb_updated_at TEXT,
    face_count INTEGER DEFAULT 0,
    image_url TEXT,
    created_at TEXT DEFAULT (datetime('now')),
    updated_at TEXT DEFAULT (datetime('now'))
);
CREATE TABLE stashbox_ids (
    performer_id INTEGER NOT NULL REFERENCES performers(id) ON DELETE CASCADE,
    endpoint TEXT NOT NULL,
    stashbox_performer_id TEXT NOT NULL,
    created_at TEXT DEFAULT (datetime('now')),
    PRIMARY KEY (endpoint, stashbox_performer_id)
);
CREATE TABLE aliases (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    performer_id INTEGER NOT NULL REFERENCES performers(id) ON DELETE CASCADE,
    alias TEXT NOT NULL,
    source_endpoint TEXT,
    created_at TEXT DEFAULT (datetime('now')),
    UNIQUE (performer_id, alias)
);
CREATE TABLE faces (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    performer_id INTEGER NOT NULL REFERENCES performers(id) ON DELETE CASCADE,
    facenet_index INTEGER NOT NULL UNIQUE,
    arcface_index INTEGER NOT NULL UNIQUE,
    image_url TEXT,
    source_endpoint TEXT NOT NULL,
    quality_score REAL,
    created_at TEXT DEFAULT (datetime('now')),
    pruned INTEGER DEFAULT 0,
    yaw REAL
);
CREATE TABLE external_urls (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    performer_id INTEGER NOT NULL REFERENCES performers(id) ON DELETE CASCADE,
    site TEXT NOT NULL,
    url TEXT NOT NULL,
    normalized_id TEXT NOT NULL,
    source_endpoint TEXT NOT NULL,
    confidence REAL DEFAULT 1.0,
    created_at TEXT DEFAULT (datetime('now')),
    UNIQUE (site, normalized_id)
);
CREATE TABLE merged_ids (
    performer_id INTEGER NOT NULL REFERENCES performers(id) ON DELETE CASCADE,
    merged_stashbox_id TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    merged_at TEXT DEFAULT (datetime('now')),
    PRIMARY KEY (endpoint, merged_stashbox_id)
);
CREATE TABLE tattoos (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    performer_id INTEGER NOT NULL REFERENCES performers(id) ON DELETE CASCADE,
    location TEXT,
    description TEXT,
    source_endpoint TEXT,
    created_at TEXT DEFAULT (datetime('now')),
    UNIQUE (performer_id, location, description)
);
CREATE TABLE piercings (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    performer_id INTEGER NOT NULL REFERENCES performers(id) ON DELETE CASCADE,
    location TEXT,
    description TEXT,
    source_endpoint TEXT,
    created_at TEXT DEFAULT (datetime('now')),
    UNIQUE (performer_id, location, description)
);
CREATE TABLE body_proportions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    performer_id INTEGER NOT NULL REFERENCES performers(id) ON DELETE CASCADE,
    shoulder_hip_ratio REAL,
    leg_torso_ratio REAL,
    arm_span_height_ratio REAL,
    confidence REAL
);
CREATE TABLE tattoo_detections (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    performer_id INTEGER NOT NULL REFERENCES performers(id) ON DELETE CASCADE,
    has_tattoos INTEGER,
    confidence REAL,
    detections_json TEXT
);
"""

INDEXES = """
CREATE INDEX idx_performers_name ON performers(canonical_name);
CREATE INDEX idx_performers_country ON performers(country);
CREATE INDEX idx_performers_ethnicity ON performers(ethnicity);
CREATE INDEX idx_performers_height ON performers(height_cm);
CREATE INDEX idx_performers_scene_count ON performers(scene_count);
CREATE INDEX idx_performers_stashdb_updated ON performers(stashdb_updated_at);
CREATE INDEX idx_stashbox_performer ON stashbox_ids(performer_id);
CREATE INDEX idx_stashbox_id ON stashbox_ids(stashbox_performer_id);
CREATE INDEX idx_aliases_performer ON aliases(performer_id);
CREATE INDEX idx_aliases_alias ON aliases(alias COLLATE NOCASE);
CREATE INDEX idx_faces_performer ON faces(performer_id);
CREATE INDEX idx_urls_performer ON external_urls(performer_id);
CREATE INDEX idx_urls_site ON external_urls(site, normalized_id);
CREATE INDEX idx_urls_normalized ON external_urls(normalized_id);
CREATE INDEX idx_merged_performer ON merged_ids(performer_id);
"""
