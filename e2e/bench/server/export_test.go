package server

// VersionsOf is Versions for a program that is another than this test.
var VersionsOf = versionsOf
