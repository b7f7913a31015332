// What the development registry remembers: JSON documents by kind and id, in its object's SQLite, so that a restart on
// the same storage finds the same agents and the same signing key.

export class Store {
  #sql;

  constructor(sql) {
    this.#sql = sql;
    sql.exec("CREATE TABLE IF NOT EXISTS document (kind TEXT, id TEXT, json TEXT NOT NULL, PRIMARY KEY (kind, id))");
  }

  put(kind, id, value) {
    this.#sql.exec("INSERT OR REPLACE INTO document VALUES (?, ?, ?)", kind, id, JSON.stringify(value));
    return value;
  }

  delete(kind, id) {
    this.#sql.exec("DELETE FROM document WHERE kind = ? AND id = ?", kind, id);
  }

  clear() {
    this.#sql.exec("DELETE FROM document");
  }

  get(kind, id) {
    const [row] = this.#sql.exec("SELECT json FROM document WHERE kind = ? AND id = ?", kind, id);
    return row && JSON.parse(row.json);
  }

  all(kind) {
    const rows = this.#sql.exec("SELECT json FROM document WHERE kind = ? ORDER BY id", kind);
    return [...rows].map((row) => JSON.parse(row.json));
  }
}
