const labConfig = require('@jupyterlab/testutils/lib/jest-config');

const config = labConfig(__dirname);
const transformed = [
  '@codemirror',
  '@jupyter/',
  '@jupyterlab/',
  '@marijn',
  '@microsoft/',
  '@rjsf/',
  'color',
  'exenv-es6',
  'lib0',
  'marked',
  'nanoid',
  'style-mod',
  'vscode-ws-jsonrpc',
  'y-protocols',
  'y-websocket',
  'yjs'
].join('|');

module.exports = {
  ...config,
  testRegex: 'src/.*/.*\\.spec\\.tsx?$',
  reporters: ['default'],
  transformIgnorePatterns: [`/node_modules/(?!${transformed}).+`]
};
