// What the page reports to the server. There is nothing to report yet.
export {};
