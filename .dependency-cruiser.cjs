/**
 * The layers of the front end: index wires widgets, widgets show models with components, models ask the api.
 */
const layer = (name, from, to) => ({
  name,
  severity: 'error',
  from: { path: from },
  to: { path: to }
});

module.exports = {
  forbidden: [
    { name: 'no-cycles', severity: 'error', from: {}, to: { circular: true } },
    {
      name: 'no-orphans',
      severity: 'error',
      from: { orphan: true, pathNot: ['\\.d\\.ts$', '\\.spec\\.tsx?$'] },
      to: {}
    },
    layer('api-knows-nothing-of-us', '^src/api/', '^src/(model|widgets|components|icons|index)'),
    layer('model-does-not-show', '^src/model/', '^src/(widgets|components|icons|index)'),
    layer('components-are-properties-only', '^src/components/', '^src/(widgets|index)'),
    layer('nothing-imports-the-wiring', '^src/(?!index)', '^src/index'),
    {
      name: 'only-the-api-fetches',
      severity: 'error',
      from: { path: '^src/(model|widgets|components)/', pathNot: '\\.spec\\.tsx?$' },
      to: { path: '^src/api/request' }
    },
    {
      name: 'resolvable',
      severity: 'error',
      from: { path: '^src' },
      to: { couldNotResolve: true }
    }
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsConfig: { fileName: 'tsconfig.json' },
    tsPreCompilationDeps: true,
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'default'] }
  }
};
