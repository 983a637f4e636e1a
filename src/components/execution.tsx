/**
 * One execution: its error, what it read and made, its metrics and its log.
 */

import type { PartialJSONObject } from '@lumino/coreutils';
import * as React from 'react';

import type { IArtifactName } from '../api/client';
import type { IAttempt, IExecution, IMetric, IRead } from '../api/schema';
import type { IContents } from '../model/contents';
import { duration, exact, figure, fileVerb, millis, plainly, size } from '../model/format';
import { ArtifactLink, BindingCards, pythonOf } from './artifactcard';
import { LinkButton, Line, Sentence, useNow } from './shared';
import { StateIcon } from './stateicon';
import { timeOf } from './steplist';

export interface IExecutionProps {
  readonly execution: IExecution;
  /** Show outputs through the registry of renderers, untrusted. */
  readonly outputs: (key: string, outputs: ReadonlyArray<PartialJSONObject>) => JSX.Element;
  readonly contents: IContents;
  readonly onGoToCell: (() => void) | null;
  readonly onCancel: () => void;
  /** The run that it was reused from, once that is known. */
  readonly reusedFrom: string | null;
  readonly onOpenRun: (run: string) => void;
  /** The fan-out that it is an item of is chosen instead. */
  readonly onChoose: (execution: string) => void;
  readonly onOpenArtifact: (artifact: IArtifactName) => void;
}

/** What an execution is called: its step, or the values of its item. */
export function itemName({ step, label, item, part_of }: IExecution): string {
  const values = Object.values(label);
  return part_of === null
    ? step
    : values.length
      ? plainly(values.join(', '))
      : `item ${item ?? ''}`;
}

export function ExecutionView(props: IExecutionProps): JSX.Element {
  const { execution, outputs } = props;
  const { failure } = execution;
  // Folders whose names it listed are left out: these are no files.
  const files = execution.files.filter(({ mode }) => mode === 'r' || mode === 'w');
  const now = useNow(execution.state === 'running');
  const isUnderWay = execution.state === 'running' || execution.state === 'queued';
  const log = execution.messages.filter(each => each.output_type !== 'error');
  const bundle = (data: PartialJSONObject) =>
    outputs(`preview-${execution.id}`, [{ output_type: 'display_data', data, metadata: {} }]);
  const open = (digest: string, name: string) =>
    props.onOpenArtifact({ digest, execution: execution.id, name });
  return (
    <section className="jp-mlb-Execution" aria-label={`Step ${execution.step}`}>
      <div className="jp-mlb-Execution-title">
        <StateIcon state={execution.state} />
        <h2
          title={Object.entries(execution.label)
            .map(pair => pair.join(' = '))
            .join(', ')}
        >
          {execution.step}
          {execution.part_of !== null && `[${itemName(execution)}]`}
        </h2>
        <span className="jp-mod-quiet">
          {[execution.state, timeOf(execution, now)].filter(Boolean).join(' · ')}
          {execution.attempt > 1 ? ` · attempt ${execution.attempt}` : ''}
        </span>
        <span className="jp-mlb-Execution-actions">
          {isUnderWay && <LinkButton onClick={props.onCancel}>Cancel</LinkButton>}
          {execution.part_of !== null && (
            <LinkButton onClick={() => props.onChoose(execution.part_of as string)}>
              All items
            </LinkButton>
          )}
          {props.onGoToCell && <LinkButton onClick={props.onGoToCell}>Go to cell</LinkButton>}
        </span>
      </div>
      {execution.note && (
        <p className="jp-mlb-Execution-note">
          <Sentence text={execution.note} />
        </p>
      )}
      {execution.state === 'reused' && props.reusedFrom && (
        <p className="jp-mlb-Execution-note">
          It did not run: nothing that it depends on had changed since{' '}
          <LinkButton onClick={() => props.onOpenRun(props.reusedFrom as string)}>
            run {props.reusedFrom.slice(0, 4)}
          </LinkButton>
          .
        </p>
      )}
      {failure && (
        <Part title="Error">
          <ErrorText execution={execution} />
          {failure.remedy && (
            <p className="jp-mlb-Execution-remedy">
              <Sentence text={failure.remedy} />
            </p>
          )}
          {failure.traceback.length > 0 && (
            <details className="jp-mlb-Execution-traceback">
              <summary>Traceback</summary>
              {outputs(`traceback-${execution.id}`, [
                {
                  output_type: 'error',
                  ename: failure.ename,
                  evalue: failure.evalue,
                  traceback: [...failure.traceback]
                }
              ])}
            </details>
          )}
        </Part>
      )}
      {execution.attempts.length > 0 && (
        <Part title="Earlier attempts">
          <dl className="jp-mlb-Facts">
            {execution.attempts.map(each => (
              <React.Fragment key={each.number}>
                <dt>attempt {each.number}</dt>
                <dd>
                  {attemptWords(each)}
                  {each.failure && (
                    <code className="jp-mlb-Execution-why">
                      {each.failure.ename}: {each.failure.evalue}
                    </code>
                  )}
                </dd>
              </React.Fragment>
            ))}
          </dl>
        </Part>
      )}
      {execution.artifacts.length > 0 && (
        <Part title="Logged">
          <BindingCards
            bindings={execution.artifacts}
            python={name => pythonOf(execution, name, true)}
            bundle={bundle}
            contents={props.contents}
            onOpen={open}
          />
        </Part>
      )}
      {execution.reads.length > 0 && (
        <Part title="Reads">
          <Reads reads={execution.reads} onOpen={props.onOpenArtifact} />
        </Part>
      )}
      {execution.binds.length > 0 && (
        <Part title="Made">
          <BindingCards
            bindings={execution.binds}
            python={name => pythonOf(execution, name)}
            bundle={bundle}
            contents={props.contents}
            onOpen={open}
          />
        </Part>
      )}
      {execution.metrics.length > 0 && (
        <Part title="Metrics">
          <Metrics metrics={execution.metrics} />
        </Part>
      )}
      {Object.keys(execution.tags).length > 0 && (
        <Part title="Tags">
          <Tags tags={execution.tags} />
        </Part>
      )}
      {files.length > 0 && (
        <Part title="Files">
          <dl className="jp-mlb-Facts">
            {files.map(file => (
              <React.Fragment key={`${file.mode}${file.path}`}>
                <dt>{fileVerb(file)}</dt>
                <dd title={file.path}>
                  <code>{file.path}</code>
                  {file.size === null ? '' : ` · ${size(file.size)}`}
                </dd>
              </React.Fragment>
            ))}
          </dl>
        </Part>
      )}
      <Part title="Log">
        {log.length ? (
          <div className="jp-mlb-Execution-log">{outputs(`log-${execution.id}`, log)}</div>
        ) : (
          <Line>{isUnderWay ? 'It has printed nothing yet.' : 'It printed nothing.'}</Line>
        )}
      </Part>
    </section>
  );
}

function attemptWords({ state, reason, started, ended, worker }: IAttempt): string {
  const took = started === null || ended === null ? '' : duration(millis(ended - started));
  return [reason && reason !== 'error' ? `${state}: ${reason}` : state, took, worker ?? '']
    .filter(Boolean)
    .join(' · ');
}

function Part(props: { readonly title: string; readonly children: React.ReactNode }): JSX.Element {
  return (
    <>
      <h3>{props.title}</h3>
      {props.children}
    </>
  );
}

function ErrorText({ execution }: { readonly execution: IExecution }): JSX.Element | null {
  const { failure, source, step } = execution;
  if (!failure) {
    return null;
  }
  // Lines count from 1 in the cell as written, whose first is the %%step line; a source without it begins at 2.
  const lines = (source ?? '').split('\n');
  const first = /^\s*%%step/.test(lines[0]) ? 1 : 2;
  const code = failure.line === null ? undefined : lines[failure.line - first];
  return (
    <div className="jp-mlb-Error">
      <div className="jp-mlb-Error-message">
        {failure.ename}: {failure.evalue}
      </div>
      {failure.line !== null && (
        <div className="jp-mod-quiet">
          step {step}, line {failure.line}
        </div>
      )}
      {code && (
        <div>
          {'----> '}
          {failure.line} {code}
        </div>
      )}
    </div>
  );
}

interface IReadsProps {
  readonly reads: ReadonlyArray<IRead>;
  readonly onOpen: (artifact: IArtifactName) => void;
}

/** What it was given: by steps first, then by the kernel, of which modules are but named. */
function Reads({ reads, onOpen }: IReadsProps): JSX.Element {
  const modules = reads.filter(({ type }) => type === 'module');
  const values = reads.filter(each => !modules.includes(each));
  return (
    <ul className="jp-mlb-Reads">
      {values
        .filter(({ step }) => step)
        .concat(values.filter(({ step }) => !step))
        .map(read => (
          <ReadLine key={read.name} read={read} onOpen={onOpen} />
        ))}
      {modules.length > 0 && (
        <li>
          <span className="jp-mod-quiet">{modules.length > 1 ? 'modules' : 'module'}</span>
          {modules.map(({ name }) => (
            <code key={name}>{name}</code>
          ))}
        </li>
      )}
    </ul>
  );
}

interface IReadLineProps {
  readonly read: IRead;
  readonly onOpen: (artifact: IArtifactName) => void;
}

function ReadLine({ read, onOpen }: IReadLineProps): JSX.Element {
  const { name, digest, execution } = read;
  const facts = [
    read.type?.split('.').pop(),
    read.size === null ? null : size(read.size),
    read.step ? `from ${read.step}` : 'from the kernel'
  ];
  return (
    <li>
      {digest !== null && execution !== null ? (
        <ArtifactLink name={name} onOpen={() => onOpen({ digest, execution, name })} />
      ) : (
        <code>{name}</code>
      )}
      <span className="jp-mod-quiet" title={read.digest ?? undefined}>
        {facts.filter(Boolean).join(' · ')}
      </span>
    </li>
  );
}

/** What the step has noted of itself. */
function Tags({ tags }: { readonly tags: IExecution['tags'] }): JSX.Element {
  return (
    <dl className="jp-mlb-Facts">
      {Object.entries(tags).map(([name, value]) => (
        <React.Fragment key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </React.Fragment>
      ))}
    </dl>
  );
}

/** The last value of each metric, in the order in which they were first logged. */
export function lastOf(metrics: ReadonlyArray<IMetric>): IMetric[] {
  return [...new Map(metrics.map(each => [each.name, each])).values()];
}

function Metrics({ metrics }: { readonly metrics: ReadonlyArray<IMetric> }): JSX.Element {
  const series = new Map<string, IMetric[]>();
  for (const metric of metrics) {
    series.set(metric.name, [...(series.get(metric.name) ?? []), metric]);
  }
  return (
    <dl className="jp-mlb-Facts jp-mod-metrics">
      {[...series].map(([name, points]) => {
        const last = points[points.length - 1];
        return (
          <React.Fragment key={name}>
            <dt>{name}</dt>
            <dd title={last.time ? exact(millis(last.time)) : undefined}>
              <b>{figure(last.value)}</b>
              {points.length > 1 && (
                <span className="jp-mod-quiet"> last of {points.length} values</span>
              )}
            </dd>
          </React.Fragment>
        );
      })}
    </dl>
  );
}
