/**
 * All that a run has left behind: what its plain cells and its steps logged, and what its steps made.
 */

import type { PartialJSONObject } from '@lumino/coreutils';
import * as React from 'react';

import type { IArtifactName } from '../api/client';
import type { IBinding, IExecution, IRunDetail } from '../api/schema';
import type { IContents } from '../model/contents';
import { counted } from '../model/format';
import { isCode } from '../model/preview';
import { BindingCards, pythonCode } from './artifactcard';
import { Line, LinkButton } from './shared';
import { StateIcon } from './stateicon';

/** Artifacts of one step that are shown before more are asked for. */
const FEW = 24;

export interface IArtifactListProps {
  readonly detail: IRunDetail;
  readonly contents: IContents;
  readonly outputs: (key: string, outputs: ReadonlyArray<PartialJSONObject>) => JSX.Element;
  /** Show the details of a step. */
  readonly onChoose: (execution: string) => void;
  readonly onOpenArtifact: (artifact: IArtifactName) => void;
}

/** How many artifacts a run has, code that was imported aside. */
export function countArtifacts(detail: IRunDetail): number {
  return groupsOf(detail).reduce(
    (sum, { logged, made }) => sum + logged.length + made.filter(isValue).length,
    0
  );
}

function isValue({ artifact }: IBinding): boolean {
  return artifact !== null && !isCode(artifact);
}

interface IGroup {
  /** Null for what plain cells logged. */
  readonly execution: IExecution | null;
  readonly logged: ReadonlyArray<IBinding>;
  readonly made: ReadonlyArray<IBinding>;
}

function groupsOf({ run, executions }: IRunDetail): ReadonlyArray<IGroup> {
  const there = (bindings: ReadonlyArray<IBinding>) => bindings.filter(each => each.artifact);
  return [
    { execution: null, logged: there(run.artifacts), made: [] },
    ...executions.map(execution => ({
      execution,
      logged: there(execution.artifacts),
      made: there(execution.binds)
    }))
  ].filter(({ logged, made }) => logged.length + made.length > 0);
}

export function ArtifactList(props: IArtifactListProps): JSX.Element {
  const groups = groupsOf(props.detail);
  if (!groups.length) {
    return (
      <Line>
        <span>
          What steps bind to names appears here, and what <code>mlbench.log_artifact</code> keeps:
          files, folders, any value.
        </span>
      </Line>
    );
  }
  return (
    <div className="jp-mlb-ArtifactList">
      {groups.map(group => (
        <Group key={group.execution?.id ?? ''} {...props} group={group} />
      ))}
    </div>
  );
}

function Group(props: IArtifactListProps & { readonly group: IGroup }): JSX.Element {
  const { detail, contents, group } = props;
  const { execution, logged, made } = group;
  const [most, setMost] = React.useState(FEW);
  const { run } = detail;
  const values = made.filter(isValue);
  const left = logged.length + made.length - most;
  const words = [
    logged.length ? `${logged.length.toLocaleString('en-US')} logged` : '',
    values.length ? `${values.length.toLocaleString('en-US')} made` : ''
  ];
  const cards = (bindings: ReadonlyArray<IBinding>, isLogged: boolean) => (
    <BindingCards
      bindings={bindings}
      python={name => pythonCode(run.id, execution?.step ?? null, name, isLogged)}
      contents={contents}
      bundle={data =>
        props.outputs('preview', [{ output_type: 'display_data', data, metadata: {} }])
      }
      onOpen={(digest, name) =>
        props.onOpenArtifact(
          execution ? { digest, execution: execution.id, name } : { digest, run: run.id, name }
        )
      }
    />
  );
  return (
    <section aria-label={execution ? `Artifacts of ${execution.step}` : 'Artifacts of plain cells'}>
      <div className="jp-mlb-ArtifactList-head">
        {execution ? (
          <>
            <StateIcon state={execution.state} size={12} />
            <LinkButton title="Show this step" onClick={() => props.onChoose(execution.id)}>
              {execution.step}
            </LinkButton>
          </>
        ) : (
          <b>plain cells</b>
        )}
        <span className="jp-mod-quiet">{words.filter(Boolean).join(' · ')}</span>
      </div>
      <div className="jp-mlb-ArtifactList-cards">
        {cards(logged.slice(0, most), true)}
        {cards(made.slice(0, Math.max(0, most - logged.length)), false)}
      </div>
      {left > 0 && (
        <LinkButton onClick={() => setMost(most * 4)}>
          Show {counted(left, 'more artifact')}
        </LinkButton>
      )}
    </section>
  );
}
